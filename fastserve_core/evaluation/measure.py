"""The measurement after every stage: quality, latency, throughput, size and memory.

It runs in its own process (``python -m fastserve_core.evaluation.measure``), so that the memory is that of the model
alone and the number of threads is as configured.
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
from fastserve_core.errors import FastServeError, StoreError, TransientError
from fastserve_core.evaluation.doubts import DoubtedRows
from fastserve_core.evaluation.samples import answer_samples
from fastserve_core.events import Event, Progress, WarningRaised
from fastserve_core.inference.engines import BASELINE_ENGINE, preload_modules, select_fastest
from fastserve_core.inference.predictor import Predictor, length_batches
from fastserve_core.processes.child import child_main, event_writer, run_in_child
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.tasks.encoded import Encoded
from fastserve_core.tasks.task import Task

LATENCY_REQUESTS, LATENCY_SECONDS = 200, 4.0
THROUGHPUT_BATCHES, THROUGHPUT_ROWS, THROUGHPUT_SECONDS = (8, 32, 64), 512, 3.0
WARMUP_SECONDS = 2.0
GENERATED_TOKENS = 16
"""A generative task is timed over this many new tokens."""


def measure_artifact(
    artifact: Artifact, data: Dataset, task: Task, emit: Callable[[Event], None], engines: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Measure an artifact on this machine.

    An engine that cannot run the model is skipped with a warning. If all fail, the baseline engine is tried. An engine
    whose process is killed is measured a second time.

    Args:
        artifact: The artifact.
        data: The splits.
        task: The task, for its objective.
        emit: Called with events.
        engines: The engines to measure.

    Returns:
        The measures by engine, the best engine first.

    Raises:
        FastServeError: No engine can run the model.
        StoreError: The disk is full.
    """
    results, names = {}, list(engines)
    for name in names:
        try:
            results[name] = _measure_in_child(artifact, data, emit, name)
        except StoreError:
            raise
        except FastServeError as error:
            if artifact.form == TRAINABLE and BASELINE_ENGINE not in names:
                names.append(BASELINE_ENGINE)
            if name == names[-1] and not results:
                raise
            emit(WarningRaised(f"the engine {name} does not run this model: {error}"))
    best = select_fastest(results, task.objective, emit)
    return {best: results.pop(best)} | results


def _measure_in_child(artifact: Artifact, data: Dataset, emit: Callable[[Event], None], engine: str) -> dict[str, Any]:
    threads = threads_per_process()
    request = {"artifact": artifact.folder, "data": data.folder, "threads": threads, "engine": engine}
    arguments = ("fastserve_core.evaluation.measure", request, threads, emit, preload_modules(engine))
    try:
        measures: dict[str, Any] = run_in_child(*arguments)
    except StoreError:
        raise
    except TransientError as error:
        emit(WarningRaised(f"the engine {engine} is measured again: {error}"))
        measures = run_in_child(*arguments)
    return measures


def benchmark_in_process(artifact: str, data: str, threads: int, engine: str, events: str) -> dict[str, Any]:
    """Measure an artifact with one engine in this process.

    Args:
        artifact: The artifact's folder.
        data: The folder of the splits.
        threads: The number of threads.
        engine: The engine.
        events: The path for events.

    Returns:
        The measures of ``run.json``: scores on the test and validation splits, latencies of single inputs in
        milliseconds, throughput in inputs per second, sizes in bytes, the rows that the model doubts most, and
        answers to a few validation rows.
    """
    emit = event_writer(events)
    dataset, model = load_dataset(Path(data)), load_artifact(Path(artifact))
    predictor = Predictor(model, threads, engine)
    validation = dataset.rows("validation")
    encoded = predictor.encode(validation[:THROUGHPUT_ROWS])
    emit(Progress("measuring", 0, 3))
    times = measure_latencies(predictor, encoded)
    emit(Progress("measuring", 1, 3))
    rate = measure_throughput(predictor, encoded)
    emit(Progress("measuring", 2, 3))
    doubted = DoubtedRows(predictor.task)
    measures = {
        "quality": _round_scores(predictor.score(dataset.rows("test"), watch=doubted.watch("test"))),
        "quality_validation": _round_scores(predictor.score(validation, watch=doubted.watch("validation"))),
        "latency_ms_p50": round(statistics.median(times), 3),
        "latency_ms_p99": round(sorted(times)[math.ceil(0.99 * len(times)) - 1], 3),
        "throughput_per_s": round(rate, 1),
        "size_bytes": model.size_bytes,
        "peak_memory_bytes": _peak_memory(),
        "threads": threads,
        "doubted_rows": doubted.list_worst(),
    }
    if samples := answer_samples(predictor, validation):
        measures["samples"] = samples
    predictor.close()
    return measures


def measure_latencies(predictor: Predictor, encoded: Sequence[Encoded]) -> list[float]:
    """Measure the latencies of single inputs, from token ids to the prediction, after a warm-up.

    Returns:
        Milliseconds.
    """
    warm_up(predictor, encoded)
    options = timing_options(predictor.task)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < LATENCY_REQUESTS and (time.perf_counter() - start < LATENCY_SECONDS or not times):
        example = encoded[len(times) % len(encoded)]
        begin = time.perf_counter()
        predictor.answer([example], options)
        times.append(1000 * (time.perf_counter() - begin))
    return times


def warm_up(predictor: Predictor, encoded: Sequence[Encoded]) -> None:
    """Predict for one input of each length within a time limit, because engines prepare for every new shape."""
    start = time.perf_counter()
    for example in {len(example): example for example in encoded}.values():
        predictor.answer([example], timing_options(predictor.task))
        if time.perf_counter() - start > WARMUP_SECONDS:
            break


def measure_throughput(predictor: Predictor, encoded: Sequence[Encoded]) -> float:
    """Measure the throughput with the best of several batch sizes, in batches of similar length.

    Returns:
        Inputs per second.
    """
    best, options = 0.0, timing_options(predictor.task)
    for size in dict.fromkeys(min(size, len(encoded)) for size in THROUGHPUT_BATCHES):
        batches = [[encoded[index] for index in indices] for indices in length_batches(encoded, size)]
        middle = len(batches[len(batches) // 2][0])
        # middle batches first, so that the lengths are typical if the time runs out
        batches.sort(key=lambda batch: abs(len(batch[0]) - middle))
        for _ in predictor.answer_all(batches[:2], options):  # a warm-up: engines prepare for many batches
            pass
        count, start = 0, time.perf_counter()
        for predictions in predictor.answer_all(batches, options):
            count += len(predictions)
            if time.perf_counter() - start > THROUGHPUT_SECONDS:
                break
        best = max(best, count / (time.perf_counter() - start))
    return best


def timing_options(task: Task) -> dict[str, Any]:
    """Return the options of the inputs that a model is timed on."""
    return {"max_new_tokens": GENERATED_TOKENS} if task.is_generative else {}


def _round_scores(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in scores.items()}


def _peak_memory() -> int:
    """Return the peak memory of this process in bytes; the system's unit is KiB on Linux and bytes on macOS."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    child_main(benchmark_in_process)
