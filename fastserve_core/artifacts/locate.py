"""The artifact that a path means: its own folder, or a run's, which names its best one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import Artifact, is_artifact, load_artifact
from fastserve_core.artifacts.files import read_json
from fastserve_core.errors import InvalidArtifact, UserError


def find_artifact(path: Path) -> Artifact:
    """An artifact's folder as it is, or the best artifact of a run's folder; raises ``InvalidArtifact``."""
    if is_artifact(path):
        return load_artifact(path, verify=True)
    if not path.exists():
        raise InvalidArtifact(f"{path} does not exist: give an artifact's folder or a run's (see 'fastserve runs')")
    if not (path / "run.json").is_file():
        raise InvalidArtifact(
            f"{path} is neither an artifact (it has no fastserve.json) nor a run (it has no run.json)"
        )
    best = str(read_record(path).get("best") or "")
    if not best:
        raise InvalidArtifact(f"the run {path} made no artifact")
    return load_artifact(Path(best), verify=True)


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
