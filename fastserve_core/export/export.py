"""From an artifact to a folder for another runtime: written aside, compared with the artifact, then published."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import COMPILED, MANIFEST, Artifact, load_artifact
from fastserve_core.artifacts.files import copy_tokenizer, copy_tree, write_json, write_text
from fastserve_core.artifacts.hashing import hash_file
from fastserve_core.errors import InvalidArtifact, InvalidOption, wrap_write_errors
from fastserve_core.export.formats import export_format
from fastserve_core.processes.child import PRELOAD_MODULES, run_in_child
from fastserve_core.processes.resources import threads_per_process

EXPORT = "export.json"
SCHEMA = 1
VERIFICATION_ROWS = 16
"""Inputs that are compared, unless another number is asked for."""


@dataclass(frozen=True)
class Exported:
    """A published export: its folder, and what ``export.json`` says."""

    folder: Path
    about: Mapping[str, Any]


def export_artifact(artifact: Artifact, folder: Path, to: str, check: int = VERIFICATION_ROWS) -> Exported:
    """Write the artifact in the format ``to`` into a new folder, or over an older export.

    The files are loaded by their own runtime, in a process of its own, and answer ``check`` inputs of several shapes.
    Raises ``UnknownName`` and ``MissingPackage`` for the format, ``InvalidArtifact`` for files that only one engine
    reads,
    ``ExportError`` when the model does not go through or answers otherwise; nothing is published then.
    """
    kind, target = export_format(to), folder.absolute()
    if check < 1:
        raise InvalidOption(f"check must be at least 1 input, not {check}")
    if target.exists() and not (target / EXPORT).is_file():
        raise InvalidArtifact(f"{target} exists and is no older export (it has no {EXPORT}): it is not replaced")
    if artifact.form == COMPILED and kind.engine != artifact.engine:
        raise InvalidArtifact(_engine_only(artifact, to))
    threads = threads_per_process()
    with (
        wrap_write_errors(f"the export {target.name}", target),
        tempfile.TemporaryDirectory(prefix="fastserve-") as scratch,
    ):
        draft = Path(scratch, "draft")
        draft.mkdir()
        asked = {"artifact": artifact.folder, "to": to, "draft": draft, "scratch": scratch}
        found = run_in_child(
            "fastserve_core.export.worker", {"step": "write", "count": check, **asked}, threads, imports=PRELOAD_MODULES
        )
        result = run_in_child("fastserve_core.export.worker", {"step": "compare", **asked}, threads)
        _describe(artifact, draft)
        about = _metadata(artifact, to, kind, found, draft, result)
        write_json(draft / EXPORT, about)
        copy_tree(draft, target)
    return Exported(target, about)


def copy_model(artifact: Artifact, draft: Path) -> None:
    """The files that a compressor made for an engine, as they are."""
    for name in artifact.manifest.files:
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.folder / name, draft / name)


def _describe(artifact: Artifact, draft: Path) -> None:
    """What a program needs besides the model: the tokenizer, the config, and the labels, one a line."""
    copy_tokenizer(artifact.folder, draft)
    if (artifact.folder / "config.json").is_file():
        shutil.copyfile(artifact.folder / "config.json", draft / "config.json")
    if artifact.manifest.labels:
        labels = (" ".join(str(one).split()) for one in artifact.manifest.labels)
        write_text(draft / "labels.txt", "".join(f"{label}\n" for label in labels))


def _metadata(
    artifact: Artifact, to: str, kind: Any, found: Mapping[str, Any], draft: Path, check: Mapping[str, Any]
) -> dict[str, Any]:
    manifest = artifact.manifest
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    return {
        "schema": SCHEMA,
        "format": to,
        **kind.about,
        "task": manifest.task,
        "task_options": manifest.task_options,
        "labels": manifest.labels,
        "inputs": found["inputs"],
        "outputs": found["outputs"],
        "max_length": found["longest"],
        "versions": {name: version(name) for name in ("fastserve-core", *kind.requires)},
        "check": check,
        "made_from": {"digest": artifact.digest, "lineage": manifest.lineage},
        "files": {
            path.relative_to(draft).as_posix(): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
            for path in files
        },
    }


def _engine_only(artifact: Artifact, to: str) -> str:
    """Why files of one engine cannot be exported, and what can."""
    parent = next((str(one["parent"]) for one in reversed(artifact.manifest.lineage) if one.get("parent")), "")
    known = _export_to_store(artifact, parent)
    where = f"the trainable model it was made from ({known or f'its digest begins with {parent[:16]}'})"
    return (
        f"{artifact.folder} holds files for the engine {artifact.engine} only and cannot become {to}: "
        f"export {where}, or choose --to {artifact.engine}"
    )


def _export_to_store(artifact: Artifact, digest: str) -> Path | None:
    """The artifact of that digest among those that lie beside this one."""

    for path in artifact.folder.parent.glob(f"*/{MANIFEST}"):
        try:
            if load_artifact(path.parent).digest == digest:
                return path.parent
        except InvalidArtifact:
            continue
    return None
