"""The artifact that a path means: its own folder, or a run's, which names its best one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import Artifact, is_artifact, load_artifact
from fastserve_core.artifacts.files import read_json
from fastserve_core.errors import InvalidArtifact, UserError


def find_artifact(path: Path) -> Artifact:
    """Load the artifact of a path: its own folder, or the folder of a run.

    Raises:
        InvalidArtifact: The path is neither, the run made no artifact, or a file was changed.
    """
    folder = best_artifact_folder(path)
    if is_artifact(folder):
        return load_artifact(folder, verify=True)
    if not folder.exists():
        raise InvalidArtifact(f"{folder} does not exist: give an artifact's folder or a run's (see 'fastserve runs')")
    raise InvalidArtifact(f"{path} is neither an artifact (it has no fastserve.json) nor a run (it has no run.json)")


def best_artifact_folder(folder: Path) -> Path:
    """Return the folder of a run's best artifact; any other folder as it is.

    Raises:
        InvalidArtifact: The run made no artifact.
    """
    if is_artifact(folder) or not (folder / "run.json").is_file():
        return folder
    best = str(read_record(folder).get("best") or "")
    if not best:
        raise InvalidArtifact(f"the run {folder} made no artifact")
    return Path(best)


def parse_named_path(model: str) -> tuple[str, Path]:
    """What ``NAME:FOLDER`` says; a folder alone is called by its own name."""
    name, colon, folder = model.partition(":")
    if colon and not Path(model).exists():
        return name, Path(folder).expanduser().absolute()
    path = Path(model).expanduser().absolute()
    return path.name, path


def read_record(folder: Path) -> dict[str, Any]:
    """The ``run.json`` of a run's folder; raises ``UserError`` when it is none."""
    path = folder if folder.name == "run.json" else folder / "run.json"
    if not path.is_file():
        raise UserError(f"{folder} is no run: it has no run.json")
    try:
        record: dict[str, Any] = read_json(path)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return record
