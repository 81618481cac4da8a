"""One training, ours or a peer's, each in processes of its own; and several of them in turn."""

from __future__ import annotations

import itertools
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastserve_core.events import Event, Step
from fastserve_core.processes import run_in_child
from fastserve_torch_ddp.options import DDPOptions
from training.workload import Bench, Workload

PEER_NEEDS = ("torch", "transformers", "accelerate")


@dataclass(frozen=True)
class Outcome:
    """What one training did: rates over whole epochs, without start-up, looks at the validation split, and the end.

    ``seconds`` are those of the whole loop, and ``held_up_s`` those of them that were spent on what is kept; a peer
    keeps nothing. ``peak_memory_bytes`` is the largest rank's resident set.
    """

    samples_per_s: float
    tokens_per_s: float
    accuracy: float
    steps: int
    seconds: float
    held_up_s: float
    peak_memory_bytes: int


Run = Callable[[int], Outcome]
"""A training with a seed."""


def ours(bench: Bench, work: Workload, cores: int | None = None, **options: Any) -> Run:
    """The trainer as its plugin calls it, with these of its options; an epoch unless told otherwise."""
    chosen = DDPOptions(**{"epochs": 1, **options})

    def run(seed: int) -> Outcome:
        last: list[Step] = []

        def listen(event: Event) -> None:
            if isinstance(event, Step):
                last[:] = [event]

        with_cores = cores or bench.cores
        request = {
            "model": work.model,
            "data": work.data.folder,
            "task": [work.task_name, work.task_options, list(work.data.labels)],
            "folder": fresh(bench.scratch / "ours"),
            "options": asdict(chosen),
            "steps": None,
            "seed": seed,
            "cores": with_cores,
        }
        result = run_in_child("fastserve_torch_ddp.launch", request, with_cores, listen)
        (step,) = last
        return Outcome(
            step.samples_per_s,
            step.tokens_per_s,
            result["scores"]["accuracy"],
            *(result[name] for name in ("steps", "seconds", "held_up_s", "peak_memory_bytes")),
        )

    return run


def hugging_face(bench: Bench, work: Workload, **arguments: Any) -> Run:
    """Hugging Face's ``Trainer``; ``arguments`` are those of its ``TrainingArguments``."""

    def run(seed: int) -> Outcome:
        request = {
            "model": work.model,
            "data": work.data.folder,
            "labels": list(work.data.labels),
            "max_length": work.task_options["max_length"],
            "arguments": {"output_dir": str(fresh(bench.scratch / "peer")), "seed": seed, **arguments},
        }
        return Outcome(**run_in_child("training.hf_peer", request, bench.cores))

    return run


def missing_packages() -> list[str]:
    """What the peer needs and is not installed."""
    return [name for name in PEER_NEEDS if find_spec(name) is None]


def fresh(folder: Path) -> Path:
    """An empty folder in the place of what a run before left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def in_turn(name: str, runs: Mapping[str, Run], seeds: Sequence[int]) -> dict[str, list[Outcome]]:
    """Every training once with each seed, in an order that rotates, so that a change of the machine meets all alike."""
    found: dict[str, list[Outcome]] = {variant: [] for variant in runs}
    for number, seed in enumerate(seeds):
        shift = number % len(runs)
        for variant in itertools.islice(itertools.cycle(runs), shift, shift + len(runs)):
            outcome = runs[variant](seed)
            found[variant].append(outcome)
            print(f"{name} {number + 1}/{len(seeds)} {variant}: {outcome.samples_per_s} samples/s", file=sys.stderr)
    return found


def rate(outcomes: Sequence[Outcome]) -> float:
    """The median of the samples a second."""
    return statistics.median(one.samples_per_s for one in outcomes)


def ratio(outcomes: Sequence[Outcome], others: Sequence[Outcome]) -> float:
    """The median of the ratios of the rates in the same round."""
    pairs = zip(outcomes, others, strict=True)
    return round(statistics.median(one.samples_per_s / other.samples_per_s for one, other in pairs), 3)


def accuracy(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Mean and standard deviation of the validation accuracy, in percent."""
    percent = [100 * one.accuracy for one in outcomes]
    return statistics.mean(percent), statistics.stdev(percent) if len(percent) > 1 else 0.0
