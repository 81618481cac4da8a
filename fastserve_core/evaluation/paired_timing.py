"""Interleaved timing of several models, so that other load on the machine slows all of them alike."""

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
from fastserve_core.evaluation.measure import THROUGHPUT_ROWS, timing_options, warm_up
from fastserve_core.events import Event, WarningRaised
from fastserve_core.inference.engines import preload_modules
from fastserve_core.inference.predictor import Predictor, length_batches
from fastserve_core.processes.child import child_main, run_in_child
from fastserve_core.processes.resources import threads_per_process

FORMAT_VERSION = 3
"""Increased with every change of the method; part of the name of the result."""
ROUNDS, SECONDS = 30, 8.0
"""The maximum number of rounds for each kind of measurement, and the time after which no further round starts."""
REPEATS = {"latency": 6, "throughput": 2}
"""How often each model runs in its turn. The first run does not count, because the caches hold the data of the model
before it, which does not happen when it is served."""
BATCH, BATCHES = 32, 4
MEASUREMENTS = 3
"""The maximum number of measurements, each in a process of its own: the layout of the memory and other load on the
machine are the same in all rounds of one."""


def cached_speedups(
    store: Store,
    models: Sequence[Artifact],
    data: Dataset,
    is_decided: Callable[[Sequence[Speedup]], bool] | None = None,
) -> list[Speedup] | None:
    """Return the result of an earlier ``measure_speedups``, or ``None``."""

    def read(number: int) -> list[Speedup] | None:
        folder = store.find(_result_id(models, data, number))
        return None if folder is None else _read_speedups(folder)

    return _repeat(read, is_decided)


def measure_speedups(
    store: Store,
    models: Sequence[Artifact],
    data: Dataset,
    emit: Callable[[Event], None],
    is_decided: Callable[[Sequence[Speedup]], bool] | None = None,
) -> list[Speedup]:
    """Measure the speed of the first model relative to each of the others; the result is stored.

    Args:
        store: The store.
        models: The models, at least two.
        data: The splits; the inputs are validation rows.
        emit: Called with events.
        is_decided: Whether the speedups need no further measurement, of at most ``MEASUREMENTS``; one by default.

    Returns:
        The speedups over the second and each further model: the medians of the measurements.
    """

    def measure(number: int) -> list[Speedup]:
        with store.claim(_result_id(models, data, number), lambda text: emit(WarningRaised(text))) as claim:
            if not claim.is_published:
                threads = threads_per_process()
                request = {"models": [model.folder for model in models], "data": data.folder, "threads": threads}
                imports = sorted({module for model in models for module in preload_modules(model.engine)})
                speedups = run_in_child("fastserve_core.evaluation.paired_timing", request, threads, emit, imports)
                write_json(claim.partial / "speedups.json", speedups)
                claim.publish()
            return _read_speedups(claim.final)

    speedups = _repeat(measure, is_decided)
    assert speedups is not None
    return speedups


def _repeat(
    measure: Callable[[int], list[Speedup] | None], is_decided: Callable[[Sequence[Speedup]], bool] | None
) -> list[Speedup] | None:
    """Return the medians of as many measurements as are needed, or ``None`` if one is missing."""
    found: list[list[Speedup]] = []
    for number in range(MEASUREMENTS):
        speedups = measure(number)
        if speedups is None:
            return None
        found.append(speedups)
        if is_decided is None or is_decided(_find_medians(found)):
            break
    return _find_medians(found)


def _find_medians(measurements: Sequence[Sequence[Speedup]]) -> list[Speedup]:
    return [
        Speedup(
            *(round(statistics.median(getattr(one, name) for one in same), 4) for name in ("latency", "throughput"))
        )
        for same in zip(*measurements, strict=True)
    ]


def _read_speedups(folder: Path) -> list[Speedup]:
    return [Speedup(**ratios) for ratios in read_json(folder / "speedups.json")]


def _result_id(models: Sequence[Artifact], data: Dataset, number: int) -> str:
    timed = [[model.digest, model.engine] for model in models]
    return result_id("pairs", "speed", stable_hash([FORMAT_VERSION, timed, data.fingerprint, number]))


def time_interleaved(models: Sequence[str], data: str, threads: int, events: str) -> list[dict[str, float]]:
    """Time the models in this process.

    Args:
        models: The folders of the artifacts.
        data: The folder of the splits.
        threads: The number of threads.
        events: The path for events; not used.

    Returns:
        The ratios ``latency`` and ``throughput`` over the second and each further model.
    """
    predictors = [Predictor(load_artifact(Path(folder)), threads) for folder in models]
    rows = load_dataset(Path(data)).rows("validation")[:THROUGHPUT_ROWS]
    encoded = [predictor.encode(rows) for predictor in predictors]
    batches = length_batches(encoded[0], BATCH)
    batches = batches[:: max(1, len(batches) // BATCHES)][:BATCHES]
    options = timing_options(predictors[0].task)

    def run_single(model: int, row: int) -> None:
        predictors[model].answer([encoded[model][row % len(rows)]], options)

    def run_batches(model: int, _: int) -> None:
        inputs = [[encoded[model][index] for index in indices] for indices in batches]
        for _predictions in predictors[model].answer_all(inputs, options):
            pass

    for predictor, inputs in zip(predictors, encoded, strict=True):
        warm_up(predictor, inputs)
    ratios = {
        "latency": measure_ratios(run_single, len(models), REPEATS["latency"]),
        "throughput": measure_ratios(run_batches, len(models), REPEATS["throughput"]),
    }
    return [{name: round(values[other], 4) for name, values in ratios.items()} for other in range(len(models) - 1)]


def measure_ratios(run: Callable[[int, int], None], count: int, repeats: int) -> list[float]:
    """Measure the time of each other model relative to the first, as the median over rounds.

    Args:
        run: Runs a model, by its index, on an input, by a number.
        count: The number of models.
        repeats: How often each model runs in its turn.

    Returns:
        The ratio for the second and each further model.
    """
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < ROUNDS and (time.perf_counter() - start < SECONDS or not rounds):
        times = [0.0] * count
        for turn in range(count):
            model = (turn + len(rounds)) % count
            times[model] = _median_time(run, model, range(len(rounds), len(rounds) + repeats))
        rounds.append(times)
    return [statistics.median(times[other] / times[0] for times in rounds) for other in range(1, count)]


def _median_time(run: Callable[[int, int], None], model: int, inputs: range) -> float:
    times = []
    run(model, inputs[0])
    for number in inputs[1:]:
        begin = time.perf_counter()
        run(model, number)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    child_main(time_interleaved)
