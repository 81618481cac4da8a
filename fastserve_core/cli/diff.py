"""``fastserve diff RUN RUN``: the options and measures in which two runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.locate import read_record
from fastserve_core.cli.arguments import format_table, make_parser
from fastserve_core.errors import UserError

IGNORED_KEYS = {"command", "best", "folder", "stages"}
STAGE_KEYS = ("status", "digest", "options", "measures", "found", "seconds")
CONFIG_SECTIONS = ("gate", "data", "task", "model", "preflight")
MAX_CELL_WIDTH = 40


def main(arguments: Sequence[str]) -> int:
    """Print the differences; return the exit code."""
    parser = make_parser("diff", "Compare two runs: data, options, the best options of a search, and measures.")
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_intermixed_args(arguments)
    first, second = (flatten_record(read_record(run)) | flatten_config(run) for run in options.runs)
    names = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    differences = {name: (first.get(name), second.get(name)) for name in names}
    if options.json:
        print(json.dumps(differences, indent=1))
    elif not differences:
        print("the runs do not differ")
    else:
        rows = [["name", *map(str, options.runs), "ratio"]]
        for name, values in differences.items():
            rows.append([name, *map(_format_value, values), _format_ratio(*values)])
        print(format_table(rows))
    return 0


def flatten_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a run's record to values by path, such as ``1.train.torch_ddp.options.lr``.

    Args:
        record: The content of ``run.json``.
    """
    values = dict(_flatten_mapping({name: value for name, value in record.items() if name not in IGNORED_KEYS}, ""))
    for number, stage in enumerate(record.get("stages", []), 1):
        selected = {name: stage[name] for name in STAGE_KEYS if name in stage}
        values |= dict(_flatten_mapping(selected, f"{number}.{stage['stage']}.{stage['plugin']}."))
    return values


def flatten_config(run: Path) -> dict[str, Any]:
    """Flatten a run's ``config.yaml``, without the plugins' options, to values by path (``config.gate.enabled`` …).

    Args:
        run: The run's folder, or its ``run.json``.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    path = (run.parent if run.name == "run.json" else run) / "config.yaml"
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return dict(_flatten_mapping({name: config[name] for name in CONFIG_SECTIONS if name in config}, "config."))


def _flatten_mapping(mapping: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flatten_mapping(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _format_value(value: Any) -> str:
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_CELL_WIDTH else text[: MAX_CELL_WIDTH - 3] + "..."


def _format_ratio(first: Any, second: Any) -> str:
    are_numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (first, second))
    return f"{second / first:.3f}" if are_numbers and first else ""
