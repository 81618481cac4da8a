"""Training MiniLM on the movie reviews, against Hugging Face's ``Trainer`` and against the machine's limits.

    python benchmarks/train.py [--quick] [--only speed,ranks] [--out FILE]

The trainings of a section run in turn, round after round, each in processes of its own that are given the same
cores and the same environment. ``FASTSERVE_HOME``, where it is set, keeps the model and the data that are fetched.
The last line is ``RESULT {json}``: ``vs_hf_default`` and ``vs_hf_best`` are medians of the ratios of whole epochs'
rates, ``accuracy_gap`` is in points (below 0 where ours is better), ``two_ranks_vs_one`` the ratio of two ranks to one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sections
from training.costs import adapters, checkpoints, memory
from training.limit import limit
from training.pretraining import pretraining
from training.speed import ranks, speed
from training.workload import Bench

from fastserve_core.artifacts import Store, default_home

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
    parser = sections.parser(__doc__, SECTIONS, f"{QUICK_ROWS} rows, one round, {', '.join(QUICK)}")
    parser.add_argument("--repeats", type=int, help="rounds of the sections that have several (3; quick: 1)")
    parser.add_argument("--seeds", type=sections.numbers, help="of speed (one a round) and adapters (0)")
    parser.add_argument("--rows", type=int, help="at most so many reviews, those held out included")
    parser.add_argument("--cores", type=int, default=2, help="cores that all processes of a training share (2)")
    return parser.parse_args(given)


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


def main() -> None:
    chosen = arguments()
    with sections.scratch() as folder:
        bench = bench_of(chosen, folder)
        names = chosen.only or (QUICK if chosen.quick else tuple(SECTIONS))
        result = sections.run(SECTIONS, names, bench, chosen.out)
    sections.finish(result)


if __name__ == "__main__":
    main()
