"""What the benchmarks with several sections share: their arguments, the run of one after the other, the last line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from training.tables import load_average, machine

from fastserve_core.artifacts import write_json
from fastserve_core.errors import FastServeError
from fastserve_core.processes import set_library_environment

Setting = TypeVar("Setting")
Sections = Mapping[str, Callable[[Setting], dict[str, Any]]]


def parser(description: str | None, sections: Sections[Any], quick: str) -> argparse.ArgumentParser:
    """The arguments that all have; ``quick`` says what is then done."""

    def named(text: str) -> list[str]:
        names = text.split(",")
        if strangers := [name for name in names if name not in sections]:
            raise argparse.ArgumentTypeError(f"no section is called {strangers[0]}: choose of {', '.join(sections)}")
        return names

    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help=quick)
    made.add_argument("--only", type=named, help=f"of {', '.join(sections)}; all, unless --quick")
    made.add_argument("--out", type=Path, help="a JSON file for the results")
    return made


def numbers(text: str) -> tuple[int, ...]:
    """``0,1,2`` as numbers."""
    return tuple(int(one) for one in text.split(","))


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards; child processes find the benchmark's modules, and libraries are quiet."""
    set_library_environment()
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="fastserve-bench-") as folder:
        yield Path(folder)


def run(sections: Sections[Setting], names: Sequence[str], setting: Setting, out: Path | None) -> dict[str, Any]:
    """The sections in turn; one that fails is named, and the others still run. What is known is written to ``out``."""
    result: dict[str, Any] = {"machine": machine(), "load": {}, "failed": {}}
    for name in names:
        print(f"\n## {name}\n", flush=True)
        before = load_average()
        try:
            result |= sections[name](setting)
        except FastServeError as error:
            result["failed"][name] = str(error)
            print(f"{name} failed: {error}")
        result["load"][name] = [before, load_average()]
        print("\n{}; load average {} before and {} after".format(machine(), *result["load"][name]), flush=True)
        if out is not None:
            write_json(out, result)
    return result


def finish(result: Mapping[str, Any]) -> None:
    """Print the last line and end the process."""
    print("RESULT " + json.dumps(result))
    sys.exit(1 if result["failed"] else 0)
