"""Each task that reads texts, in one Ray instance: its answers are those of the predictor."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import numpy as np
import pytest

from fastserve_core.artifacts import MANIFEST, TRAINABLE, Artifact, Manifest, hash_files, write_manifest
from fastserve_core.config import ModelSpec
from fastserve_core.inference import Predictor
from fastserve_core.tasks import CALIBRATION_FILE, load_task
from fastserve_ray_serve.options import RayServeOptions
from fastserve_ray_serve.server import start
from fastserve_server.server import ServerProcess

TEXT = "ada wrote it in london @ #"
TASKS: Mapping[str, tuple[tuple[str, ...], Any]] = {
    "text_classification": (("bad", "good"), {"text": TEXT, "text_pair": "ada"}),
    "multi_label_classification": (("bad", "good", "long"), TEXT),
    "text_regression": ((), {"text": TEXT, "text_pair": "ada"}),
    "token_classification": (("O", "B-PER", "I-PER"), TEXT * 9),
    "joint_intent_slots": (("intent:ask", "intent:tell", "slot:B-PER", "slot:O"), TEXT),
    "relation_classification": (("Other", "in(e1,e2)"), "<e1>ada</e1> wrote it in <e2>london</e2>"),
    "relation_extraction": (("entity:PER", "relation:in"), TEXT),
    "question_answering": ((), {"question": "who wrote it", "context": TEXT * 9}),
}
OPTIONS: Mapping[str, Mapping[str, int]] = {"question_answering": {"stride": 8}}
CALIBRATIONS = {"joint_intent_slots": {"method": "softmax", "threshold": 0.0, "slope": 1.0}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A model of one layer with random weights for each task."""
    import torch

    from fastserve_text.model_factory import write_scratch

    root = tmp_path_factory.mktemp("models")
    spec = ModelSpec("scratch", "bert", dim=16, num_heads=2, num_layers=1, hidden_size=32, max_positions=64)
    (root / "scratch").mkdir()
    write_scratch(spec, [TEXT, "who"] * 3, root / "scratch", "ForSequenceClassification")
    made = {}
    for name, (labels, _) in TASKS.items():
        options, folder = {"max_length": 32, **OPTIONS.get(name, {})}, root / name
        shutil.copytree(root / "scratch", folder)
        torch.manual_seed(0)
        network: Any = load_task(name, options, labels).build(folder)
        network.save_pretrained(folder)
        if name in CALIBRATIONS:
            np.savez(folder / CALIBRATION_FILE, allow_pickle=False, **CALIBRATIONS[name])
        runtime = {"engine": "torch", "form": TRAINABLE}
        files = hash_files(folder, exclude=[MANIFEST])
        made[name] = write_manifest(folder, Manifest(name, options, labels, runtime, ({"stage": "train"},), files))
    return made


@pytest.fixture(scope="module")
def server(models: dict[str, Artifact]) -> Iterator[ServerProcess]:
    first, *others = models
    options = RayServeOptions(
        port=0, name=first, models=[f"{name}:{models[name].folder}" for name in others], replicas=1
    )
    with start(models[first].folder, options, cores=1) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_task_answers_as_its_predictor_does(server: ServerProcess, models: dict[str, Artifact], name: str) -> None:
    request = {"inputs": [TASKS[name][1]], "model": name}
    response = httpx.post(server.url + "/predict", json=request, timeout=30)
    assert response.json() == {"predictions": Predictor(models[name], 1).predict(request["inputs"]), "model": name}
