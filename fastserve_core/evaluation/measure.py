"""The one measurement that follows every stage: quality, latency, throughput, size, memory.

It runs in a process of its own (``python -m fastserve_core.evaluation.measure``), so that memory is the model's and
threads are what the policy says.
"""

from __future__ import annotations

import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import TRAINABLE, Artifact, load_artifact
from fastserve_core.data.dataset import Dataset, load_dataset
from fastserve_core.errors import FastServeError
from fastserve_core.events import Event, Progress, WarningRaised
from fastserve_core.inference.engines import BASELINE_ENGINE, fastest, preload_modules_of
from fastserve_core.inference.predictor import Predictor, length_batches
from fastserve_core.processes.child import child_main, event_writer, run_in_child
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.tasks.task import Encoded, Task

LATENCY_REQUESTS, LATENCY_SECONDS = 200, 4.0
THROUGHPUT_BATCHES, THROUGHPUT_ROWS, THROUGHPUT_SECONDS = (8, 32, 64), 512, 3.0
WARMUP_SECONDS = 2.0
GENERATED_TOKENS = {"max_new_tokens": 16}
"""A generative task is timed over this many new tokens."""


def measure_artifact(
    artifact: Artifact, data: Dataset, task: Task, tell: Callable[[Event], None], engines: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The artifact's measures on this machine by engine, the fastest engine first.

    An engine that cannot run the model is said and left out, and the reference takes its place; raises its error
    where no other can.
    """
    threads, found, names = threads_per_process(), {}, list(engines)
    for name in names:
        request = {"artifact": artifact.folder, "data": data.folder, "threads": threads, "engine": name}
        try:
            found[name] = run_in_child(
                "fastserve_core.evaluation.measure", request, threads, tell, preload_modules_of(name)
            )
        except FastServeError as error:
            if artifact.form == TRAINABLE and BASELINE_ENGINE not in names:
                names.append(BASELINE_ENGINE)
            if name == names[-1] and not found:
                raise
            tell(WarningRaised(f"the engine {name} does not run this model: {error}"))
    best = fastest(found, task.objective, tell)
    return {best: found.pop(best)} | found


def benchmark_in_process(artifact: str, data: str, threads: int, engine: str, events: str) -> dict[str, Any]:
    """The measurement itself, in this process: the measures of INTERFACES.md's ``run.json``."""
    tell = event_writer(events)
    prepared, model = load_dataset(Path(data)), load_artifact(Path(artifact))
    predictor = Predictor(model, threads, engine)
    validation = prepared.rows("validation")
    encoded = predictor.encode(validation[:THROUGHPUT_ROWS])
    tell(Progress("measuring", 0, 3))
    times = latencies(predictor, encoded)
    tell(Progress("measuring", 1, 3))
    rate = throughput(predictor, encoded)
    tell(Progress("measuring", 2, 3))
    measures = {
        "quality": _rounded(predictor.score(prepared.rows("test"))),
        "quality_validation": _rounded(predictor.score(validation)),
        "latency_ms_p50": round(statistics.median(times), 3),
        "latency_ms_p99": round(sorted(times)[math.ceil(0.99 * len(times)) - 1], 3),
        "throughput_per_s": round(rate, 1),
        "size_bytes": model.size_bytes,
        "peak_memory_bytes": _peak_memory(),
        "threads": threads,
    }
    predictor.close()
    return measures


def latencies(predictor: Predictor, encoded: Sequence[Encoded]) -> list[float]:
    """Milliseconds for single inputs, one after another, warm; from token ids to the answer."""
    warm_up(predictor, encoded)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < LATENCY_REQUESTS and (time.perf_counter() - start < LATENCY_SECONDS or not times):
        one = encoded[len(times) % len(encoded)]
        begin = time.perf_counter()
        predictor.answer([one], GENERATED_TOKENS)
        times.append(1000 * (time.perf_counter() - begin))
    return times


def warm_up(predictor: Predictor, encoded: Sequence[Encoded]) -> None:
    """Answer one input of each length, as far as the time goes: engines prepare something for every new shape."""
    start = time.perf_counter()
    for one in {len(one): one for one in encoded}.values():
        predictor.answer([one], GENERATED_TOKENS)
        if time.perf_counter() - start > WARMUP_SECONDS:
            break


def throughput(predictor: Predictor, encoded: Sequence[Encoded]) -> float:
    """Inputs a second with the best of some batch sizes, batches of similar length."""
    best = 0.0
    for size in THROUGHPUT_BATCHES:
        batches = [[encoded[place] for place in places] for places in length_batches(encoded, size)]
        middle = len(batches[len(batches) // 2][0])
        # middle batches first: where time runs out, what was timed is of typical length
        batches.sort(key=lambda one: abs(len(one[0]) - middle))
        for _ in predictor.answer_all(
            batches[:2], GENERATED_TOKENS
        ):  # what an engine prepares for many batches is ready
            pass
        answered, start = 0, time.perf_counter()
        for one in predictor.answer_all(batches, GENERATED_TOKENS):
            answered += len(one)
            if time.perf_counter() - start > THROUGHPUT_SECONDS:
                break
        best = max(best, answered / (time.perf_counter() - start))
    return best


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in scores.items()}


def _peak_memory() -> int:
    """The most memory this process ever held; Linux counts in KiB, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    child_main(benchmark_in_process)
