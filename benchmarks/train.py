"""Training MiniLM on the movie reviews, against Hugging Face's ``Trainer`` and against the machine's limits.

    python benchmarks/train.py [--quick] [--only speed,ranks] [--out FILE]

The trainings of a section run in turn, round after round, each in processes of its own that are given the same
cores and the same environment. ``FASTSERVE_HOME``, where it is set, keeps the model and the data that are fetched.
The last line is ``RESULT {json}``: ``vs_hf_default`` and ``vs_hf_best`` are medians of the ratios of whole epochs'
rates, ``accuracy_gap`` is in points (below 0 where ours is better), ``two_ranks_vs_one`` the ratio of two ranks to one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.costs import adapters, checkpoints, memory
from training.limit import limit
from training.pretraining import pretraining
from training.speed import ranks, speed
from training.tables import load_average, machine
from training.workload import Bench

from fastserve_core.errors import FastServeError
from fastserve_core.files import write_json
from fastserve_core.quiet import quiet_environment
from fastserve_core.store import Store, default_home

SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "speed": speed,
    "ranks": ranks,
    "memory": memory,
    "checkpoints": checkpoints,
    "adapters": adapters,
    "pretraining": pretraining,
    "limit": limit,
}
QUICK = ("speed", "ranks", "limit")
QUICK_ROWS, QUICK_STEPS = 1500, 15


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} rows, one round, {', '.join(QUICK)}")
    parser.add_argument("--only", type=_sections, help=f"of {', '.join(SECTIONS)}; all, unless --quick")
    parser.add_argument("--repeats", type=int, help="rounds of the sections that have several (3; quick: 1)")
    parser.add_argument("--seeds", type=_numbers, help="of speed (one a round) and adapters (0)")
    parser.add_argument("--rows", type=int, help="at most so many reviews, those held out included")
    parser.add_argument("--cores", type=int, default=2, help="cores that all processes of a training share (2)")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    return parser.parse_args(given)


def _sections(text: str) -> list[str]:
    names = text.split(",")
    if strangers := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"no section is called {strangers[0]}: choose of {', '.join(SECTIONS)}")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(one) for one in text.split(","))


def pin(cores: int) -> int:
    """Hold this process and those that it starts to so many cores; returns how many there were to be had."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    return len(os.sched_getaffinity(0))


def bench_of(chosen: argparse.Namespace, folder: Path) -> Bench:
    home = default_home() if os.environ.get("FASTSERVE_HOME") else folder / "home"
    return Bench(
        store=Store(home),
        scratch=folder,
        cores=pin(chosen.cores),
        repeats=chosen.repeats or (1 if chosen.quick else 3),
        seeds=chosen.seeds,
        rows=chosen.rows or (QUICK_ROWS if chosen.quick else None),
        profiled_steps=QUICK_STEPS if chosen.quick else Bench.profiled_steps,
    )


def run(names: Sequence[str], bench: Bench, keep: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """The sections in turn; one that fails is named, and the others still run."""
    result: dict[str, Any] = {"machine": machine(), "load": {}, "failed": {}}
    for name in names:
        print(f"\n## {name}\n", flush=True)
        before = load_average()
        try:
            result |= SECTIONS[name](bench)
        except FastServeError as error:
            result["failed"][name] = str(error)
            print(f"{name} failed: {error}")
        result["load"][name] = [before, load_average()]
        print("\n{}; load average {} before and {} after".format(machine(), *result["load"][name]), flush=True)
        keep(result)
    return result


def main() -> None:
    chosen = arguments()
    quiet_environment()
    here = str(Path(__file__).parent)  # where the child processes find their modules
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="fastserve-bench-") as folder:
        bench = bench_of(chosen, Path(folder))
        names = chosen.only or (QUICK if chosen.quick else tuple(SECTIONS))
        result = run(names, bench, lambda found: write_json(chosen.out, found) if chosen.out else None)
    print("RESULT " + json.dumps(result))
    sys.exit(1 if result["failed"] else 0)


if __name__ == "__main__":
    main()
