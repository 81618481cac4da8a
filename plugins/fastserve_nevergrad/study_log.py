"""The log of a study: one JSON line for its space, and one for each finished trial, written to disk at once."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import expand_user, read_record, write_text
from fastserve_core.errors import OptionError

LOG_FILE = "trials.jsonl"
RUN_FILE = "run.json"
CHECKSUM = "crc32"
"""The entry of a line with the checksum of its other entries."""
Line = dict[str, Any]
"""A trial in the log: ``number``, ``options``, ``objective`` (``None`` for a failure), ``error``, ``seconds``; after a
success also ``scores``, ``steps`` and ``measures``; with several rungs ``rung``, with several trainings ``each``."""


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line with a checksum to a log, and wait until it is on disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_to_line(record))
        file.flush()
        os.fsync(file.fileno())


def read_log(path: Path) -> list[Line]:
    """Return the finished trials of a log, without lines that are damaged or that a kill cut short."""
    return [record for record in _read_records(path) if record is not None and "number" in record]


def _to_line(record: Mapping[str, Any]) -> str:
    checksum = zlib.crc32(json.dumps(record).encode())
    return json.dumps({**record, CHECKSUM: checksum}) + "\n"


def _from_line(line: str) -> Line | None:
    """Return the record of a line; ``None`` if the line is damaged."""
    try:
        record = json.loads(line)
        checksum = record.pop(CHECKSUM, None)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    if checksum is not None and checksum != zlib.crc32(json.dumps(record).encode()):
        return None
    return dict(record) if line.endswith("\n") else None


def _read_records(path: Path) -> list[Line | None]:
    """Return the record of each line of a log; ``None`` for a damaged one."""
    if not path.is_file():
        return []
    return [_from_line(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)]


def begin_log(path: Path, space: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    """Create a log for a space, or check the space of an existing one and remove its damaged lines.

    Args:
        path: The log.
        space: The space to search.
        warn: Receives a warning about damaged lines. A last line that a kill cut short is removed without one.

    Raises:
        OptionError: The log exists and has another space.
    """
    records = _read_records(path)
    whole = [record for record in records if record is not None]
    if None in records[:-1]:
        warn(f"{path} has damaged lines: their trials are made again")
    for record in whole:
        check_space(record.get("space", space), space, path)
    if not whole or None in records:
        trials = [record for record in whole if "space" not in record]
        write_text(path, "".join(map(_to_line, [{"space": space}, *trials])))


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
    records = [record for record in _read_records(path) if record is not None]
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
        stages = read_record(run_file)["stages"]
        artifacts = (stage["artifact"] for stage in stages if stage["stage"] == "tune" and stage["artifact"])
        path = Path(next(artifacts, path))
    if (path / LOG_FILE).is_file():
        return path / LOG_FILE
    raise OptionError(
        f"tune.nevergrad.warm_start: no study in {path.absolute()}: set the folder of a run, or a {LOG_FILE}"
    )
