"""What the small commands share: a parser that fails our way, runs and artifacts by path, plain tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from fastserve_core.artifact import Artifact, is_artifact, load_artifact
from fastserve_core.errors import BadArtifact, BadOption
from fastserve_core.record import read_record


class Parser(argparse.ArgumentParser):
    """argparse, with our message and exit code for wrong input."""

    def error(self, message: str) -> NoReturn:
        raise BadOption(f"{message}\n{self.format_usage().strip()}")


def parser(command: str, description: str) -> Parser:
    return Parser(prog=f"fastserve {command}", description=description)


def find_artifact(path: Path) -> Artifact:
    """An artifact's folder as it is, or the best artifact of a run's folder."""
    if is_artifact(path):
        return load_artifact(path, verify=True)
    if not path.exists():
        raise BadArtifact(f"{path} does not exist: give an artifact's folder or a run's (see 'fastserve runs')")
    if not (path / "run.json").is_file():
        raise BadArtifact(f"{path} is neither an artifact (it has no fastserve.json) nor a run (it has no run.json)")
    best = str(read_record(path).get("best") or "")
    if not best:
        raise BadArtifact(f"the run {path} made no artifact")
    return load_artifact(Path(best), verify=True)


def table(rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need to be; the first row is the heading."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts)
    return "\n".join(lines)
