"""Artifacts: plain model folders with a manifest that describes their content and origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.files import read_json, write_json
from fastserve_core.artifacts.hashing import hash_file, json_digest, stable_hash
from fastserve_core.errors import ArtifactError

MANIFEST = "fastserve.json"
CHECKSUM = "checksum"
"""The entry of ``fastserve.json`` with the hash of all others."""
SCHEMA = 1
FIELD_TYPES = {"task": str, "labels": list, "lineage": list} | dict.fromkeys(
    ("task_options", "runtime", "files", "measures"), dict
)

TRAINABLE, COMPILED = "trainable", "engine"
"""The two forms: Hugging Face weights, which can be trained further, and files for one engine."""


@dataclass(frozen=True)
class Manifest:
    """The content of ``fastserve.json``.

    Attributes:
        task: The name of the task.
        task_options: The task's options.
        labels: The labels by their index in the model's outputs.
        runtime: ``engine``, ``form``, and how the engine was chosen.
        lineage: The stages that made the artifact, the oldest first.
        files: The sha256 of each file by relative path.
        measures: The measurements with ``engine``.
        schema: The version of the format.
    """

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
    """A published model folder.

    Attributes:
        folder: The folder.
        digest: The hash of all that decides its answers: its files' names and bytes, and of the manifest the task with
            its options, the labels, the form and the engine that the files are for. Measures and lineage do not count.
        manifest: The content of ``fastserve.json``.
    """

    folder: Path
    digest: str
    manifest: Manifest

    @property
    def form(self) -> str:
        """``trainable`` or ``engine``."""
        return str(self.manifest.runtime["form"])

    @property
    def engine(self) -> str:
        """The name of the engine that runs it."""
        return str(self.manifest.runtime["engine"])

    @property
    def measures(self) -> Mapping[str, Any]:
        """The measurements with its engine."""
        return self.manifest.measures

    @property
    def size_bytes(self) -> int:
        """The size of the model's files in bytes, without the manifest."""
        return sum((self.folder / name).stat().st_size for name in self.manifest.files)


def is_artifact(folder: Path) -> bool:
    """Return whether a folder has a manifest."""
    return (folder / MANIFEST).is_file()


def write_manifest(folder: Path, manifest: Manifest) -> Artifact:
    """Write the manifest of a folder, with a checksum of itself; return the folder as an artifact."""
    record = json.loads(json.dumps(asdict(manifest), default=str))
    write_json(folder / MANIFEST, record | {CHECKSUM: stable_hash(record)})
    return Artifact(folder, _digest(manifest), manifest)


def load_artifact(folder: Path, verify: bool = False) -> Artifact:
    """Read an artifact.

    Args:
        folder: The folder.
        verify: Whether to compare the hash of every file with the manifest.

    Raises:
        ArtifactError: It is not an artifact, has a newer schema, lacks files, or was changed.
    """
    if not is_artifact(folder):
        raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST}")
    manifest = _read_manifest(folder / MANIFEST)
    missing = [name for name in manifest.files if not (folder / name).is_file()]
    if missing:
        raise ArtifactError(f"{folder} lacks {', '.join(missing)}, which its manifest names")
    if verify:
        _verify(folder, manifest)
    return Artifact(folder, _digest(manifest), manifest)


def _read_manifest(path: Path) -> Manifest:
    try:
        record = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise ArtifactError(f"{path} cannot be read: it is not a manifest with a 'schema'")
    if record["schema"] > SCHEMA:
        raise ArtifactError(f"{path.parent} has schema {record['schema']}; this FastServe reads up to {SCHEMA}")
    if record.pop(CHECKSUM, None) != stable_hash(record):
        raise ArtifactError(f"{path} changed since it was published: its checksum does not match")
    wrong = [name for name, kind in FIELD_TYPES.items() if not isinstance(record.get(name), kind)]
    if wrong:
        raise ArtifactError(f"{path} cannot be read: {', '.join(wrong)} of another type than in a manifest, or missing")
    return Manifest(**{name: value for name, value in record.items() if name in Manifest.__dataclass_fields__})


def _digest(manifest: Manifest) -> str:
    runtime = manifest.runtime
    # the engine that was fastest may differ from one measurement to the next
    engine = runtime.get("staged_engine", runtime.get("engine"))
    read_as = {"task": manifest.task, "options": dict(manifest.task_options), "labels": list(manifest.labels)}
    return stable_hash({**read_as, "form": runtime.get("form"), "engine": engine, "files": json_digest(manifest.files)})


def _verify(folder: Path, manifest: Manifest) -> None:
    changed = [name for name, value in manifest.files.items() if hash_file(folder / name) != value]
    if changed:
        raise ArtifactError(f"{folder}: {', '.join(changed)} changed since it was published")
