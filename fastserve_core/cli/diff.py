"""``fastserve diff RUN RUN``: what differs between two runs, option by option and measure by measure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.locate import read_record
from fastserve_core.cli.arguments import parser, table

IGNORED = {"command", "best", "folder"}
SETTINGS = ("gate", "data", "task", "model", "preflight")


def main(arguments: Sequence[str]) -> int:
    options = parser("diff", "Compare two runs: data, options, found options and measures.")
    options.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="a run's folder")
    options.add_argument("--json", action="store_true", help="print JSON")
    given = options.parse_intermixed_args(arguments)
    first, second = (flatten(read_record(run)) | settings(run) for run in given.runs)
    names = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    if given.json:
        print(json.dumps({name: [first.get(name), second.get(name)] for name in names}, indent=1))
    elif not names:
        print("the runs do not differ")
    else:
        rows = [["what", *map(str, given.runs), "ratio"]]
        rows += [[name, _show(first.get(name)), _show(second.get(name)), _ratio(first.get(name), second.get(name))]
                 for name in names]  # fmt: skip
        print(table(rows))
    return 0


def flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record by path: ``train.torch_ddp.options.lr`` and so on."""
    found = dict(_walk({name: value for name, value in record.items() if name not in IGNORED | {"stages"}}, ""))
    for number, stage in enumerate(record.get("stages", []), 1):
        shown = {name: stage[name] for name in ("status", "digest", "options", "measures", "found", "seconds")}
        found |= dict(_walk(shown, f"{number}.{stage['stage']}.{stage['plugin']}."))
    return found


def settings(run: Path) -> dict[str, Any]:
    """What the run's ``config.yaml`` says besides the plugins' options, by path: ``config.gate.enabled`` and so on."""
    from omegaconf import OmegaConf

    path = (run.parent if run.name == "run.json" else run) / "config.yaml"
    config: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    return dict(_walk({name: config[name] for name in SETTINGS if name in config}, "config."))


def _walk(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, one in value.items():
        if isinstance(one, Mapping):
            yield from _walk(one, f"{prefix}{name}.")
        else:
            yield prefix + name, one


def _show(value: Any) -> str:
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _ratio(first: Any, second: Any) -> str:
    numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (first, second))
    return f"{second / first:.3f}" if numbers and first else ""
