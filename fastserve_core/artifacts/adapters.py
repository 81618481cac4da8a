"""Adapters (low-rank changes of a base model) in PEFT's files: where they are, and which base they belong to."""

from __future__ import annotations

from pathlib import Path

from fastserve_core.artifacts.artifact import MANIFEST, is_artifact, load_artifact
from fastserve_core.artifacts.checkpoint import list_weight_files
from fastserve_core.artifacts.hashing import hash_file, json_digest
from fastserve_core.artifacts.locate import best_artifact_folder, read_record
from fastserve_core.errors import ArtifactError

ADAPTER_FOLDER = "adapter"
"""The folder beside the merged weights of a model that was trained with adapters."""
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE_DIGEST = "base"
"""The entry of the metadata of ``ADAPTER_WEIGHTS`` with the base's ``weights_digest``; files of others lack it."""


def find_adapter(path: Path) -> Path:
    """Find the adapter of a path, and verify its files if a manifest has their hashes.

    Args:
        path: A folder with PEFT's files, an artifact that was trained with adapters, or such a run.

    Returns:
        The folder with PEFT's files.

    Raises:
        ArtifactError: There is no adapter, or a file was changed.
    """
    if not path.exists():
        raise ArtifactError(f"{path} does not exist: use the folder of an adapter, of an artifact or of a run")
    for folder in _candidates(path):
        if (folder / ADAPTER_CONFIG).is_file():
            return folder.resolve()
        if (folder / ADAPTER_FOLDER / ADAPTER_CONFIG).is_file():
            return _verify(folder.resolve())
    raise ArtifactError(
        f"{path} has no adapter: it has neither {ADAPTER_CONFIG} nor the folder '{ADAPTER_FOLDER}', which a training "
        "of a language model with train.torch_ddp.method=lora writes"
    )


def _candidates(path: Path) -> list[Path]:
    """Return a folder, or those of a run's artifacts: the best one, then the last ones."""
    if is_artifact(path) or not (path / "run.json").is_file():
        return [path]
    stages = [Path(stage["artifact"]) for stage in read_record(path)["stages"] if stage.get("artifact")]
    return [best_artifact_folder(path), *reversed(stages)]


def _verify(artifact: Path) -> Path:
    folder = artifact / ADAPTER_FOLDER
    if is_artifact(artifact):
        files = load_artifact(artifact).manifest.files
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if files.get(f"{ADAPTER_FOLDER}/{name}") != hash_file(folder / name):
                raise ArtifactError(f"{folder / name} changed since it was published: {MANIFEST} has another hash")
    return folder


def weights_digest(folder: Path) -> str:
    """Return the hash of a model's weights alone, which a copy with other options or another tokenizer shares."""
    files = load_artifact(folder).manifest.files if is_artifact(folder) else {}
    return json_digest({name: files.get(name) or hash_file(folder / name) for name in list_weight_files(folder)})
