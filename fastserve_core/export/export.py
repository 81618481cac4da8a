"""Export of an artifact for another runtime: written to a draft, compared with the artifact, then published."""

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
from fastserve_core.errors import ArtifactError, OptionError, wrap_write_errors
from fastserve_core.export.formats import load_format_class
from fastserve_core.processes.child import PRELOAD_MODULES, run_in_child
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.tasks.calibration import CALIBRATION_FILE, read_calibration

EXPORT_FILE = "export.json"
SCHEMA = 1
VERIFICATION_ROWS = 16
"""The default number of inputs to compare."""
MAX_LISTED_NUMBERS = 1000
"""Calibration arrays of more numbers, such as matrices, are in a file of their own."""


@dataclass(frozen=True)
class Export:
    """A published export.

    Attributes:
        folder: The folder.
        metadata: The content of ``export.json``.
    """

    folder: Path
    metadata: Mapping[str, Any]


def export_artifact(artifact: Artifact, folder: Path, to: str, check: int = VERIFICATION_ROWS) -> Export:
    """Export an artifact, and compare the result with it.

    The exported files are loaded by their own runtime in a separate process and run on inputs of several shapes.

    Args:
        artifact: The artifact.
        folder: A new folder, or that of an older export, which is replaced.
        to: The name of the format.
        check: The number of inputs to compare.

    Raises:
        UnknownNameError: There is no such format.
        MissingPackageError: A package of the format is not installed.
        OptionError: ``check`` is less than 1.
        ArtifactError: The artifact holds files for one engine only, or the folder is not an export.
        ExportError: The model cannot be exported, or the outputs differ; nothing is published.
    """
    kind, target = load_format_class(to), folder.absolute()
    if check < 1:
        raise OptionError(f"check must be at least 1 input, not {check}")
    _check_target(target)
    if artifact.form == COMPILED and kind.engine != artifact.engine:
        raise ArtifactError(_engine_only_message(artifact, to))
    threads = threads_per_process()
    with (
        wrap_write_errors(f"the export {target.name}", target),
        tempfile.TemporaryDirectory(prefix="fastserve-") as scratch,
    ):
        draft = Path(scratch, "draft")
        draft.mkdir()
        request = {"artifact": artifact.folder, "to": to, "draft": draft, "scratch": scratch}
        write, compare = {"step": "write", "count": check, **request}, {"step": "compare", **request}
        signature = run_in_child("fastserve_core.export.worker", write, threads, imports=PRELOAD_MODULES)
        comparison = run_in_child("fastserve_core.export.worker", compare, threads)
        _copy_description(artifact, draft)
        metadata = _make_metadata(artifact, to, kind, signature, draft, comparison)
        write_json(draft / EXPORT_FILE, metadata)
        copy_tree(draft, target)
    return Export(target, metadata)


def _check_target(folder: Path) -> None:
    if folder.exists() and not (folder / EXPORT_FILE).is_file():
        raise ArtifactError(f"{folder} exists but is not an export (it has no {EXPORT_FILE}): it is not replaced")


def copy_model(artifact: Artifact, draft: Path) -> None:
    """Copy the files of an artifact that a compressor made for an engine."""
    for name in artifact.manifest.files:
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.folder / name, draft / name)


def _copy_description(artifact: Artifact, draft: Path) -> None:
    """Copy the files that a program needs besides the model: tokenizer, config, and labels, one per line."""
    copy_tokenizer(artifact.folder, draft)
    if (artifact.folder / "config.json").is_file():
        shutil.copyfile(artifact.folder / "config.json", draft / "config.json")
    if any(array.size > MAX_LISTED_NUMBERS for array in read_calibration(artifact.folder).values()):
        shutil.copyfile(artifact.folder / CALIBRATION_FILE, draft / CALIBRATION_FILE)
    if artifact.manifest.labels:
        labels = (" ".join(str(label).split()) for label in artifact.manifest.labels)
        write_text(draft / "labels.txt", "".join(f"{label}\n" for label in labels))


def _make_metadata(
    artifact: Artifact, to: str, kind: Any, signature: Mapping[str, Any], draft: Path, check: Mapping[str, Any]
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
        "calibration": {
            name: array.tolist() if array.size <= MAX_LISTED_NUMBERS else CALIBRATION_FILE
            for name, array in read_calibration(artifact.folder).items()
        },
        "inputs": signature["inputs"],
        "outputs": signature["outputs"],
        "max_length": signature["max_length"],
        "versions": {name: version(name) for name in ("fastserve-core", *kind.requires)},
        "check": check,
        "made_from": {"digest": artifact.digest, "lineage": manifest.lineage},
        "files": {
            path.relative_to(draft).as_posix(): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
            for path in files
        },
    }


def _engine_only_message(artifact: Artifact, to: str) -> str:
    """Explain why files for one engine cannot be exported, and name the model that can."""
    parents = [str(stage["parent"]) for stage in artifact.manifest.lineage if stage.get("parent")]
    parent = parents[-1] if parents else ""
    folder = _find_by_digest(artifact, parent)
    source = f"the trainable model it was made from ({folder or f'its digest begins with {parent[:16]}'})"
    return (
        f"{artifact.folder} holds files for the engine {artifact.engine} and cannot be exported to {to}: "
        f"export {source}, or use --to {artifact.engine}"
    )


def _find_by_digest(artifact: Artifact, digest: str) -> Path | None:
    """Find the artifact with a digest in the store of another artifact."""
    for path in artifact.folder.parent.glob(f"*/{MANIFEST}"):
        try:
            if load_artifact(path.parent).digest == digest:
                return path.parent
        except ArtifactError:
            continue
    return None
