"""``fastserve runs``: the runs below a folder, newest first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.locate import read_record
from fastserve_core.cli.arguments import parser, table
from fastserve_core.errors import FastServeError

PATTERNS = ("outputs/*/run.json", "outputs/*/*/run.json", "multirun/*/*/*/run.json")


def main(arguments: Sequence[str]) -> int:
    options = parser("runs", "List the runs below a folder, newest first.")
    options.add_argument("folder", nargs="?", type=Path, default=Path(), help="where outputs/ is; this folder")
    options.add_argument("--json", action="store_true", help="print JSON")
    given = options.parse_intermixed_args(arguments)
    found = list(_runs(given.folder))
    if given.json:
        print(json.dumps([{"folder": str(folder), **record} for folder, record in found], indent=1))
    elif not found:
        print(f"no runs below {given.folder.absolute()}: they are in outputs/ where a run was started")
    else:
        print(table([["run", "status", "task", "stages", "quality", "MB"], *[_line(*one) for one in found]]))
    return 0


def _runs(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in (path for pattern in PATTERNS for path in folder.glob(pattern)):
        try:
            found.append((path.parent, read_record(path)))
        except FastServeError:
            found.append((path.parent, {"status": "unreadable"}))
    return sorted(found, key=lambda one: (one[0] / "run.json").stat().st_mtime, reverse=True)


def _line(folder: Path, record: Mapping[str, Any]) -> list[str]:
    stages = record.get("stages", [])
    chain = " > ".join(one["plugin"] + _status_note(one) for one in stages)
    best = next((one for one in reversed(stages) if one["artifact"] == record.get("best")), None)
    measures = best["measures"] if best else {}
    quality = " ".join(f"{name} {value:.4g}" for name, value in measures.get("quality", {}).items())
    size = f"{measures['size_bytes'] / 1e6:.1f}" if measures else ""
    return [str(folder), str(record.get("status")), str(record.get("task", "")), chain, quality, size]


def _status_note(stage: Mapping[str, Any]) -> str:
    """What there is to say of a stage in brackets: that it was rejected, or of a search its trials and the best one."""
    if stage["status"] == "rejected":
        return " (rejected)"
    scores = [one["score"] for one in stage.get("trials") or () if one.get("score") is not None]
    return f" ({len(stage['trials'])} trials, best {max(scores):.4g})" if scores else ""
