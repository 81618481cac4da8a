"""An artifact: a model folder that anyone can read, with a manifest that says what it is and what it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.files import read_json, write_json
from fastserve_core.artifacts.hashing import hash_files, json_digest
from fastserve_core.errors import InvalidArtifact, InvalidModel

MANIFEST = "fastserve.json"
SCHEMA = 1
POSITIONS = ("max_position_embeddings", "n_positions")
UNSAFE_SUFFIXES = ("pytorch_model.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "pytorch_model-*.bin")

TRAINABLE, COMPILED = "trainable", "engine"
"""The two forms: Hugging Face weights that train on, and files that only an engine reads."""


@dataclass(frozen=True)
class Manifest:
    """What ``fastserve.json`` says."""

    task: str
    task_options: Mapping[str, Any]
    labels: tuple[str, ...]
    runtime: Mapping[str, Any]
    lineage: tuple[Mapping[str, Any], ...]
    files: Mapping[str, str]
    measures: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


@dataclass(frozen=True)
class Artifact:
    """A published model folder; its digest is a hash of its files' names and bytes, without the manifest."""

    folder: Path
    digest: str
    manifest: Manifest

    @property
    def form(self) -> str:
        return str(self.manifest.runtime["form"])

    @property
    def engine(self) -> str:
        return str(self.manifest.runtime["engine"])

    @property
    def measures(self) -> Mapping[str, Any]:
        return self.manifest.measures

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the model, the manifest left out."""
        return sum((self.folder / name).stat().st_size for name in self.manifest.files)


def is_artifact(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def write_manifest(folder: Path, manifest: Manifest) -> Artifact:
    """Seal a folder: write its manifest and return it as an artifact."""
    write_json(folder / MANIFEST, asdict(manifest))
    return Artifact(folder, json_digest(manifest.files), manifest)


def load_artifact(folder: Path, verify: bool = False) -> Artifact:
    """Read an artifact; ``verify`` also hashes every file against the manifest.

    Raises ``InvalidArtifact`` when it is not one, is of a later schema, or was changed.
    """
    if not is_artifact(folder):
        raise InvalidArtifact(f"{folder} is no artifact: it has no {MANIFEST}")
    try:
        record = read_json(folder / MANIFEST)
        if record["schema"] > SCHEMA:
            raise InvalidArtifact(f"{folder} is of schema {record['schema']}; this FastServe reads up to {SCHEMA}")
        names = Manifest.__dataclass_fields__
        manifest = Manifest(**{name: value for name, value in record.items() if name in names})
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArtifact(f"{folder / MANIFEST} cannot be read: {error}") from error
    missing = [name for name in manifest.files if not (folder / name).is_file()]
    if missing:
        raise InvalidArtifact(f"{folder} lacks {', '.join(missing)}, which its manifest names")
    if verify:
        _verify(folder, manifest)
    return Artifact(folder, json_digest(manifest.files), manifest)


def _verify(folder: Path, manifest: Manifest) -> None:
    now = hash_files(folder, leave_out=[MANIFEST])
    changed = [name for name, value in manifest.files.items() if now.get(name) != value]
    if changed:
        raise InvalidArtifact(f"{folder}: {', '.join(changed)} changed since it was published")


def check_checkpoint(folder: Path, weights: bool = True) -> None:
    """Refuse a model folder that does not exist, has no config, or no safetensors weights.

    A pickle is refused too: reading one runs whatever its author put in.
    """
    if not folder.is_dir():
        raise InvalidModel(f"the model folder {folder} does not exist")
    if not (folder / "config.json").is_file():
        raise InvalidModel(f"{folder} is no Hugging Face model folder: it has no config.json")
    if not weights or any(folder.glob("*.safetensors")):
        return
    pickles = sorted({path.name for pattern in UNSAFE_SUFFIXES for path in folder.glob(pattern)})
    if pickles:
        raise InvalidModel(
            f"{folder} holds its weights in {', '.join(pickles)}, a pickle, which can run code when it is read; "
            "save the model as safetensors (model.save_pretrained does) and use that folder"
        )
    raise InvalidModel(f"{folder} has a config.json but no weights: no .safetensors file is in it")


def max_positions(folder: Path) -> int | None:
    """How many tokens the model of a folder has positions for, where its config says so."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    return next((int(config[name]) for name in POSITIONS if config.get(name)), None)
