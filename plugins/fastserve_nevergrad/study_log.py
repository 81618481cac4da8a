"""The log of a study: one JSON line for its space, and one for each finished trial, written to disk at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import expand_user
from fastserve_core.errors import OptionError

LOG_FILE = "trials.jsonl"
RUN_FILE = "run.json"
Line = dict[str, Any]
"""A trial in the log: ``number``, ``options``, ``objective`` (``None`` for a failure), ``error``, ``seconds``; after a
success also ``scores``, ``steps`` and ``measures``; with several rungs ``rung``, with several trainings ``each``."""


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line to a log, and wait until it is on disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_log(path: Path) -> list[Line]:
    """Return the finished trials of a log, without a last line that a kill cut short."""
    return [record for record in _read_records(path) if "number" in record]


def _read_records(path: Path) -> list[Line]:
    """Return all records of a log, and remove an incomplete last line from the file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    complete = [line for line in lines if line.endswith("\n")]
    if len(complete) < len(lines):
        path.write_text("".join(complete), encoding="utf-8")
    return [json.loads(line) for line in complete]


def begin_log(path: Path, space: Mapping[str, Any]) -> None:
    """Create a log for a space, or check the space of an existing one.

    Raises:
        OptionError: The log exists and has another space.
    """
    if records := _read_records(path):
        check_space(records[0].get("space", {}), space, path)
    else:
        append_record(path, {"space": space})


def check_space(logged: Mapping[str, Any], space: Mapping[str, Any], path: Path) -> None:
    """Compare the space of a log with the space to search.

    Args:
        logged: The log's space.
        space: The space to search.
        path: The log's file, for the message.

    Raises:
        OptionError: The spaces differ; the message lists the differences.
    """
    differences = [
        f"{option}: {logged[option]} there, {space[option]} here"
        for option in logged
        if option in space and logged[option] != space[option]
    ]
    differences += [f"{option}: only there" for option in logged if option not in space]
    differences += [f"{option}: only here" for option in space if option not in logged]
    if differences:
        raise OptionError(f"the study {path} has another space:\n  " + "\n  ".join(differences))


def read_earlier_trials(study: str, space: Mapping[str, Any]) -> list[Line]:
    """Return the trials of an earlier study, the best first.

    Args:
        study: A log, the folder of a study, or the folder of a run.
        space: The space to search.

    Raises:
        OptionError: There is no study, or it has another space.
    """
    path = find_log(study)
    records = _read_records(path)
    check_space(records[0].get("space", {}) if records else {}, space, path)
    last = {line["number"]: line for line in records if line.get("objective") is not None}
    return sorted(last.values(), key=lambda line: (-line.get("rung", 0), -line["objective"]))


def find_log(study: str) -> Path:
    """Find the log of a study.

    Args:
        study: A log, the folder of a study, or the folder of a run.

    Raises:
        OptionError: There is no log.
    """
    path = expand_user(study)
    if path.is_file():
        return path
    if (run_file := path / RUN_FILE).is_file():
        stages = json.loads(run_file.read_text(encoding="utf-8")).get("stages", [])
        artifacts = (stage["artifact"] for stage in stages if stage["stage"] == "tune" and stage["artifact"])
        path = Path(next(artifacts, path))
    if (path / LOG_FILE).is_file():
        return path / LOG_FILE
    raise OptionError(
        f"tune.nevergrad.warm_start: no study in {path.absolute()}: set the folder of a run, or a {LOG_FILE}"
    )
