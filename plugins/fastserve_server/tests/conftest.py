"""Small real artifacts, and one server for the tests that only ask."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve_core.artifacts import MANIFEST, TRAINABLE, Artifact, Manifest, hash_files, write_manifest
from fastserve_core.config import ModelSpec
from fastserve_core.tasks import CALIBRATION_FILE
from fastserve_server.options import ServerOptions
from fastserve_server.server import ServerProcess, start

TEXTS = ["the film is wonderful", "a dreadful piece of work", "what a moving story", "Ada Lovelace wrote it"] * 3
LABELS = {
    "text_classification": ("negative", "positive"),
    "token_classification": ("O", "B-PER", "I-PER"),
    "joint_intent_slots": ("intent:praise", "intent:blame", "slot:B-PER", "slot:O"),
    "causal_lm": (),
}

CALIBRATIONS: dict[str, dict[str, np.ndarray[Any, Any]]] = {
    "joint_intent_slots": {"method": np.array("softmax"), "threshold": np.array(0.0), "slope": np.array(1.0)}
}


def make_artifact(folder: Path, task: str) -> Artifact:
    """A model of two layers with random weights, as an artifact for that task."""
    import torch
    from transformers import AutoConfig, GPT2LMHeadModel
    from transformers import BertForSequenceClassification as Classifier
    from transformers import BertForTokenClassification as Tagger

    from fastserve_text.model_factory import write_scratch

    kind = {"text_classification": Classifier, "causal_lm": GPT2LMHeadModel}.get(task, Tagger)
    name = "gpt2" if task == "causal_lm" else "bert"
    folder.mkdir()
    spec = ModelSpec(
        "scratch", name, dim=32, num_heads=2, num_layers=2, hidden_size=64, vocab_size=400, max_positions=128
    )
    write_scratch(spec, TEXTS, folder, kind.__name__.removeprefix("GPT2").removeprefix("Bert"))
    torch.manual_seed(0)
    labels = LABELS[task]
    kind(AutoConfig.from_pretrained(folder, **({"num_labels": len(labels)} if labels else {}))).save_pretrained(folder)
    options = {"max_length": 64} | ({} if labels else {"max_new_tokens": 4, "temperature": 0.0})
    if task in CALIBRATIONS:
        np.savez(folder / CALIBRATION_FILE, allow_pickle=False, **CALIBRATIONS[task])
    runtime = {"engine": "torch", "form": TRAINABLE}
    lineage = ({"stage": "train", "plugin": "torch_ddp", "data": "abc"},)
    files = hash_files(folder, exclude=[MANIFEST])
    return write_manifest(folder, Manifest(task, options, labels, runtime, lineage, files))


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("models") / "tiny-classifier", "text_classification")


@pytest.fixture(scope="session")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("models") / "tiny-tagger", "token_classification")


@pytest.fixture(scope="session")
def intents(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("models") / "tiny-intents", "joint_intent_slots")


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("models") / "tiny-writer", "causal_lm")


def biased(artifact: Artifact, folder: Path, bias: float) -> Artifact:
    """The classifier with another weight in its last layer."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(artifact.folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] = bias
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    manifest = artifact.manifest
    files = hash_files(folder, exclude=[MANIFEST])
    given = (manifest.task, manifest.task_options, manifest.labels, manifest.runtime, manifest.lineage)
    return write_manifest(folder, Manifest(*given, files))


@pytest.fixture(scope="session")
def other(classifier: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The classifier, but it answers otherwise."""
    return biased(classifier, tmp_path_factory.mktemp("models") / "other", -5.0)


@pytest.fixture(scope="session")
def twin(classifier: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Another artifact that answers as the classifier does."""
    return biased(classifier, tmp_path_factory.mktemp("models") / "twin", 1e-6)


@pytest.fixture(scope="session")
def broken(classifier: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact whose files are as its manifest has them, but whose weights cannot be loaded."""
    folder = tmp_path_factory.mktemp("models") / "broken"
    shutil.copytree(classifier.folder, folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    files = hash_files(folder, exclude=[MANIFEST])
    return write_manifest(folder, replace(classifier.manifest, files=files))


@pytest.fixture(scope="session")
def server(classifier: Artifact) -> Iterator[ServerProcess]:
    """A real server with small limits."""
    options = ServerOptions(port=0, max_inputs=8, max_body_bytes=5000)
    with start(classifier.folder, options, threads=2) as running:
        yield running
