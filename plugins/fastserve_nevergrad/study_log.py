"""The log of a study: a line for its space, and one for every trial as it ends, on the disk before anything else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve_core.errors import InvalidOption

LOG = "trials.jsonl"
RECORD = "run.json"


def append(path: Path, record: Mapping[str, Any]) -> None:
    """One line, on the disk before this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_log(path: Path) -> list[dict[str, Any]]:
    """The finished trials; a last line that a kill cut short is not counted."""
    return [line for line in _lines(path) if "number" in line]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    return [json.loads(line) for line in whole]


def begin_log(path: Path, space: Mapping[str, Any]) -> None:
    """Write which space is searched, or see that a log which is there is of the same; raises ``InvalidOption``."""
    if lines := _lines(path):
        check_space(lines[0].get("space", {}), space, path)
    else:
        append(path, {"space": space})


def check_space(theirs: Mapping[str, Any], ours: Mapping[str, Any], path: Path) -> None:
    """Refuse a log of another space, and say in what they differ."""
    parts = [
        f"{one}: {theirs[one]} there, {ours[one]} here" for one in theirs if one in ours and theirs[one] != ours[one]
    ]
    parts += [f"{one}: only there" for one in theirs if one not in ours]
    parts += [f"{one}: only here" for one in ours if one not in theirs]
    if parts:
        raise InvalidOption(f"the study {path} is of another space:\n  " + "\n  ".join(parts))


def earlier_trials(given: str, space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trials of an earlier study, the best first: those of a log, a study's folder, or a run's.

    Raises ``InvalidOption`` where there is none, or it is of another space.
    """
    path = find_log(given)
    lines = _lines(path)
    check_space(lines[0].get("space", {}) if lines else {}, space, path)
    last = {line["number"]: line for line in lines if line.get("objective") is not None}
    return sorted(last.values(), key=lambda line: (-line.get("rung", 0), -line["objective"]))


def find_log(study: str) -> Path:
    """The log of a study: the file itself, or in its folder or its run's; raises ``InvalidOption``."""
    given = Path(study).expanduser()
    if given.is_file():
        return given
    if (record := given / RECORD).is_file():
        stages = json.loads(record.read_text(encoding="utf-8")).get("stages", [])
        given = next((Path(one["artifact"]) for one in stages if one["stage"] == "tune" and one["artifact"]), given)
    if (given / LOG).is_file():
        return given / LOG
    raise InvalidOption(f"tune.nevergrad.warm_start: no study in {given.absolute()}: give a run's folder, or a {LOG}")
