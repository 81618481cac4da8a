"""``fastserve runs``: list the runs below a folder, newest first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.locate import read_record
from fastserve_core.cli.arguments import format_table, make_parser
from fastserve_core.errors import FastServeError
from fastserve_core.pipeline.run_lock import is_in_progress

PATTERNS = ("outputs/*/run.json", "outputs/*/*/run.json", "multirun/*/*/*/run.json")

UNREADABLE = "unreadable"


def main(arguments: Sequence[str]) -> int:
    """Print the runs; return the exit code."""
    parser = make_parser("runs", "List the runs below a folder, newest first.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), help="the folder with outputs/ (default: this folder)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_intermixed_args(arguments)
    runs = _find_runs(options.folder)
    if options.json:
        print(json.dumps([{"folder": str(folder), **record} for folder, record in runs], indent=1))
    elif not runs:
        print(f"no runs below {options.folder.absolute()}: they are in outputs/ of the folder where they were started")
    else:
        header = ["run", "status", "task", "stages", "quality", "MB"]
        print(format_table([header, *(_readable_row(folder, record) for folder, record in runs)]))
    return 0


def _find_runs(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    runs = []
    for path in (path for pattern in PATTERNS for path in folder.glob(pattern)):
        try:
            runs.append((path.parent, _read_run(path)))
        except FastServeError:
            runs.append((path.parent, {"status": UNREADABLE}))
    return sorted(runs, key=lambda run: (run[0] / "run.json").stat().st_mtime, reverse=True)


def _read_run(path: Path) -> dict[str, Any]:
    """Return the record of a run; one whose process was killed has failed, which it could not write any more."""
    record = read_record(path)
    if record.get("status") == "running" and not is_in_progress(path.parent):
        record |= {"status": "failed", "error": "the process was killed before the run ended"}
    return record


def _readable_row(folder: Path, record: Mapping[str, Any]) -> list[str]:
    try:
        return _table_row(folder, record)
    except (AttributeError, KeyError, TypeError, ValueError):  # a record that was damaged or edited
        return _table_row(folder, {"status": UNREADABLE})


def _table_row(folder: Path, record: Mapping[str, Any]) -> list[str]:
    stages = record.get("stages", [])
    chain = " > ".join(stage["plugin"] + _status_note(stage) for stage in stages)
    best = next((stage for stage in reversed(stages) if stage["artifact"] == record.get("best")), None)
    measures = best["measures"] if best else {}
    quality = " ".join(f"{name} {value:.4g}" for name, value in measures.get("quality", {}).items())
    size = f"{measures['size_bytes'] / 1e6:.1f}" if measures else ""
    return [str(folder), str(record.get("status")), str(record.get("task", "")), chain, quality, size]


def _status_note(stage: Mapping[str, Any]) -> str:
    """Return a note in brackets: that the stage was rejected, or the number of trials and best score of a search."""
    if stage["status"] == "rejected":
        return " (rejected)"
    scores = [trial["score"] for trial in stage.get("trials") or () if trial.get("score") is not None]
    return f" ({len(stage['trials'])} trials, best {max(scores):.4g})" if scores else ""
