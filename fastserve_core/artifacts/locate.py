"""Resolves a path to an artifact: the artifact's folder, or that of a run, which stands for its best artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import Artifact, is_artifact, load_artifact
from fastserve_core.artifacts.files import expand_user, read_json
from fastserve_core.errors import ArtifactError, UserError


def find_artifact(path: Path) -> Artifact:
    """Load the artifact of a path, and verify its files.

    Symbolic links are resolved once: if a link is changed later, the result remains the folder that was verified.

    Args:
        path: An artifact's folder, or a run's folder, which stands for the run's best artifact.

    Raises:
        ArtifactError: The path is neither, the run made no artifact, or a file was changed.
    """
    folder = best_artifact_folder(path).resolve()
    if is_artifact(folder):
        return load_artifact(folder, verify=True)
    if not folder.exists():
        raise ArtifactError(f"{path} does not exist: use the folder of an artifact or of a run (see 'fastserve runs')")
    raise ArtifactError(f"{path} is neither an artifact (it has no fastserve.json) nor a run (it has no run.json)")


def best_artifact_folder(folder: Path) -> Path:
    """Return the folder of a run's best artifact; any other folder as it is.

    Raises:
        ArtifactError: The run made no artifact.
    """
    if is_artifact(folder) or not (folder / "run.json").is_file():
        return folder
    best = str(read_record(folder).get("best") or "")
    if not best:
        raise ArtifactError(f"the run {folder} made no artifact")
    return Path(best)


def parse_named_path(model: str) -> tuple[str, Path]:
    """Parse ``NAME:FOLDER`` or ``FOLDER``, which has the folder's own name.

    Returns:
        The name and the absolute path.
    """
    name, colon, folder = model.partition(":")
    if colon and not Path(model).exists():
        return name, expand_user(folder).absolute()
    path = expand_user(model).absolute()
    return path.name, path


def read_record(folder: Path) -> dict[str, Any]:
    """Read the ``run.json`` of a run.

    Args:
        folder: The run's folder, or its ``run.json``.

    Raises:
        UserError: There is no ``run.json``, or it cannot be read.
    """
    path = folder if folder.name == "run.json" else folder / "run.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a run: it has no run.json")
    try:
        record: dict[str, Any] = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or not _are_stages(record.setdefault("stages", [])):
        raise UserError(f"{path} cannot be read: it is not the record of a run")
    return record


def _are_stages(stages: Any) -> bool:
    kinds = {"stage": str, "plugin": str, "status": str, "artifact": str, "measures": dict}
    return isinstance(stages, list) and all(
        isinstance(stage, dict) and all(isinstance(stage.get(name), kind) for name, kind in kinds.items())
        for stage in stages
    )
