"""Models timed in turn on this machine, so that whatever else it does slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fastserve_core.artifact import Artifact, load_artifact
from fastserve_core.children import answer, call
from fastserve_core.data import Prepared, load
from fastserve_core.events import Event
from fastserve_core.files import read_json, write_json
from fastserve_core.gate import Speedup
from fastserve_core.hashing import stable_hash
from fastserve_core.measure import GENERATED, THROUGHPUT_ROWS, WARMUP
from fastserve_core.predictor import Predictor, by_length
from fastserve_core.store import Store, result_name
from fastserve_core.threads import threads_per_process

ROUNDS = {"latency": 60, "throughput": 7}
SECONDS = 6.0
"""Each kind of figure takes no longer than this, but for one round."""
BATCH, BATCHES = 32, 4


def find_speedups(store: Store, models: Sequence[Artifact], data: Prepared) -> list[Speedup] | None:
    """What ``speedups`` found earlier; ``None`` where it has not been run."""
    folder = store.find(_name(models, data))
    return None if folder is None else [Speedup(**one) for one in read_json(folder / "speedups.json")]


def speedups(store: Store, models: Sequence[Artifact], data: Prepared, tell: Callable[[Event], None]) -> list[Speedup]:
    """How many times as fast the first model is as each of the others; kept in the store."""
    with store.claim(_name(models, data)) as claim:
        if not claim.published:
            threads = threads_per_process()
            request = {"models": [one.folder for one in models], "data": data.folder, "threads": threads}
            write_json(claim.partial / "speedups.json", call("fastserve_core.pairs", request, threads, tell))
            claim.publish()
        return [Speedup(**one) for one in read_json(claim.final / "speedups.json")]


def _name(models: Sequence[Artifact], data: Prepared) -> str:
    return result_name("pairs", "speed", stable_hash([[one.digest, one.engine] for one in models] + [data.fingerprint]))


def time_in_turn(models: Sequence[str], data: str, threads: int, events: str) -> list[dict[str, float]]:
    """The timing itself, in a process of its own."""
    predictors = [Predictor(load_artifact(Path(one)), threads) for one in models]
    rows = load(Path(data)).rows("validation")[:THROUGHPUT_ROWS]
    encoded = [one.encode(rows) for one in predictors]
    batches = by_length(encoded[0], BATCH)
    batches = batches[:: max(1, len(batches) // BATCHES)][:BATCHES]

    def single(number: int, round_: int) -> None:
        predictors[number].answer([encoded[number][round_ % len(rows)]], GENERATED)

    def several(number: int, round_: int) -> None:
        chosen = [[encoded[number][place] for place in places] for places in batches]
        for _ in predictors[number].answer_all(chosen, GENERATED):
            pass

    found = {"latency": _ratios(single, len(models), "latency", WARMUP)}
    found["throughput"] = _ratios(several, len(models), "throughput", 1)
    return [{name: round(ratios[other], 4) for name, ratios in found.items()} for other in range(len(models) - 1)]


def _ratios(work: Callable[[int, int], None], count: int, kind: str, warmup: int) -> list[float]:
    """How many times as long each of the others takes as the first: the median of the rounds."""
    for number in range(count):
        for round_ in range(warmup):
            work(number, round_)
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < ROUNDS[kind] and (time.perf_counter() - start < SECONDS or not rounds):
        took = [0.0] * count
        for place in range(count):
            number = (place + len(rounds)) % count  # who goes first has the colder caches
            begin = time.perf_counter()
            work(number, len(rounds))
            took[number] = time.perf_counter() - begin
        rounds.append(took)
    return [statistics.median(one[other] / one[0] for one in rounds) for other in range(1, count)]


if __name__ == "__main__":
    answer(time_in_turn)
