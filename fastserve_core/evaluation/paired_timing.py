"""Models timed in turn on this machine, so that whatever else it does slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fastserve_core.artifacts.artifact import Artifact, load_artifact
from fastserve_core.artifacts.files import read_json, write_json
from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.data.dataset import Dataset, load_dataset
from fastserve_core.evaluation.gate import Speedup
from fastserve_core.evaluation.measure import GENERATED_TOKENS, THROUGHPUT_ROWS, warm_up
from fastserve_core.events import Event
from fastserve_core.inference.engines import preload_modules_of
from fastserve_core.inference.predictor import Predictor, length_batches
from fastserve_core.processes.child import child_main, run_in_child
from fastserve_core.processes.resources import threads_per_process

FORMAT = 2
"""Raised when models are timed in another way, so that older figures are not taken for these."""
ROUNDS, SECONDS = 30, 8.0
"""Rounds of each kind of figure, and how long they may take, but for one round."""
REPEATS = {"latency": 6, "throughput": 2}
"""How often a model works when it is its turn. The first time does not count: the models before it have the caches,
which it would have for itself where it serves."""
BATCH, BATCHES = 32, 4


def cached_speedups(store: Store, models: Sequence[Artifact], data: Dataset) -> list[Speedup] | None:
    """What ``speedups`` found earlier; ``None`` where it has not been run."""
    folder = store.find(_name(models, data))
    return None if folder is None else [Speedup(**one) for one in read_json(folder / "speedups.json")]


def measure_speedups(
    store: Store, models: Sequence[Artifact], data: Dataset, tell: Callable[[Event], None]
) -> list[Speedup]:
    """How many times as fast the first model is as each of the others; kept in the store."""
    with store.claim(_name(models, data)) as claim:
        if not claim.published:
            threads = threads_per_process()
            request = {"models": [one.folder for one in models], "data": data.folder, "threads": threads}
            imports = sorted({module for one in models for module in preload_modules_of(one.engine)})
            found = run_in_child("fastserve_core.evaluation.paired_timing", request, threads, tell, imports)
            write_json(claim.partial / "speedups.json", found)
            claim.publish()
        return [Speedup(**one) for one in read_json(claim.final / "speedups.json")]


def _name(models: Sequence[Artifact], data: Dataset) -> str:
    timed = [[one.digest, one.engine] for one in models]
    return result_id("pairs", "speed", stable_hash([FORMAT, timed, data.fingerprint]))


def time_interleaved(models: Sequence[str], data: str, threads: int, events: str) -> list[dict[str, float]]:
    """The timing itself, in a process of its own."""
    predictors = [Predictor(load_artifact(Path(one)), threads) for one in models]
    rows = load_dataset(Path(data)).rows("validation")[:THROUGHPUT_ROWS]
    encoded = [one.encode(rows) for one in predictors]
    batches = length_batches(encoded[0], BATCH)
    batches = batches[:: max(1, len(batches) // BATCHES)][:BATCHES]

    def single(number: int, place: int) -> None:
        predictors[number].answer([encoded[number][place % len(rows)]], GENERATED_TOKENS)

    def several(number: int, place: int) -> None:
        chosen = [[encoded[number][place] for place in places] for places in batches]
        for _ in predictors[number].answer_all(chosen, GENERATED_TOKENS):
            pass

    for predictor, inputs in zip(predictors, encoded, strict=True):
        warm_up(predictor, inputs)
    found = {
        kind: ratios(work, len(models), REPEATS[kind]) for kind, work in (("latency", single), ("throughput", several))
    }
    return [{name: round(one[other], 4) for name, one in found.items()} for other in range(len(models) - 1)]


def ratios(work: Callable[[int, int], None], count: int, in_a_row: int) -> list[float]:
    """How many times as long each of the others takes as the first: the median of the rounds.

    ``work`` is told which model, and which input.
    """
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < ROUNDS and (time.perf_counter() - start < SECONDS or not rounds):
        took = [0.0] * count
        for turn in range(count):
            number = (turn + len(rounds)) % count
            took[number] = _median_of(work, number, range(len(rounds), len(rounds) + in_a_row))
        rounds.append(took)
    return [statistics.median(one[other] / one[0] for one in rounds) for other in range(1, count)]


def _median_of(work: Callable[[int, int], None], number: int, places: range) -> float:
    times = []
    work(number, places[0])
    for place in places[1:]:
        begin = time.perf_counter()
        work(number, place)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    child_main(time_interleaved)
