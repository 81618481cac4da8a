"""Models timed in turn over batches and lengths; a process of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fastserve_core.data import load_dataset
from fastserve_core.inference import Predictor, length_batches
from fastserve_core.processes import child_main, hide_package, suppress_library_output

Inputs = Mapping[str, "np.ndarray[Any, Any]"]
Pass = Callable[[Inputs], Any]
SECONDS = 8.0
"""A shape takes no longer than this, but for one round."""
ROWS, BATCH = 512, 32


def over_shapes(
    models: Mapping[str, Mapping[str, str]], shapes: Sequence[Sequence[int]], rounds: int, threads: int, events: str
) -> dict[str, list[float]]:
    """Milliseconds of one pass by model, for each shape: medians of rounds in which each takes its turn."""
    with suppress_library_output(), hide_package("openvino_telemetry"):
        passes = {name: LOADERS[one["kind"]](Path(one["path"]), threads) for name, one in models.items()}
    found: dict[str, list[float]] = {name: [] for name in passes}
    for batch, length in shapes:
        inputs = random_inputs(batch, length)
        times = in_turn({name: partial(one, inputs) for name, one in passes.items()}, rounds)
        for name, values in times.items():
            found[name].append(round(1000 * statistics.median(values), 3))
    return found


def over_texts(artifacts: Mapping[str, Mapping[str, str]], data: str, rounds: int, threads: int, events: str) -> Any:
    """Texts a second by model, and milliseconds of a single one, from token ids to answers, over held-out texts."""
    predictors = {name: Predictor(Path(one["path"]), threads, one["engine"]) for name, one in artifacts.items()}
    rows = list(load_dataset(Path(data)).rows("validation"))[:ROWS]
    work: dict[str, Callable[[], Any]] = {}
    single: dict[str, Callable[[], Any]] = {}
    for name, one in predictors.items():
        encoded = one.encode(rows)
        batches = [[encoded[place] for place in places] for places in length_batches(encoded, BATCH)]
        work[name] = lambda one=one, batches=batches: list(one.answer_all(batches))
        single[name] = lambda one=one, encoded=encoded: [one.answer([text]) for text in encoded[:32]]
    rates = in_turn(work, min(rounds, 7), seconds=60.0)
    times = in_turn(single, min(rounds, 7), seconds=60.0)
    return {
        name: {
            "per_s": round(len(rows) / statistics.median(rates[name]), 1),
            "ms": round(1000 * statistics.median(times[name]) / 32, 3),
        }
        for name in predictors
    }


def in_turn(work: Mapping[str, Callable[[], Any]], rounds: int, seconds: float = SECONDS) -> dict[str, list[float]]:
    """Seconds of each, round after round; none is always the first.

    In its turn each works twice, and the second time counts: the models before it have the caches, which it would have
    for itself where it serves.
    """
    names = list(work)
    found: dict[str, list[float]] = {name: [] for name in names}
    start, number = time.perf_counter(), 0
    while number < rounds and (time.perf_counter() - start < seconds or number < 3):
        turned = number % len(names)
        for name in names[turned:] + names[:turned]:
            work[name]()
            begin = time.perf_counter()
            work[name]()
            found[name].append(time.perf_counter() - begin)
        number += 1
    return found


def random_inputs(batch: int, length: int) -> Inputs:
    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(1000, 20000, (batch, length)),
        "attention_mask": np.ones((batch, length), np.int64),
        "token_type_ids": np.zeros((batch, length), np.int64),
    }


def _torch(path: Path, threads: int) -> Pass:
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(threads)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()

    def run(inputs: Inputs) -> Any:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(one) for name, one in inputs.items()}).logits

    return run


def _openvino(path: Path, threads: int) -> Pass:
    import openvino

    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    model = openvino.Core().compile_model(str(path), "CPU", config)
    request, takes = model.create_infer_request(), {one.get_any_name() for one in model.inputs}
    return lambda inputs: request.infer({name: one for name, one in inputs.items() if name in takes})


def _onnxruntime(path: Path, threads: int) -> Pass:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    takes = {one.name for one in session.get_inputs()}
    return lambda inputs: session.run(None, {name: one for name, one in inputs.items() if name in takes})


def _artifact(path: Path, threads: int) -> Pass:
    """One of ours, on the engine that its manifest names."""
    return Predictor(path, threads).engine.run  # type: ignore[arg-type, return-value]


LOADERS: dict[str, Callable[[Path, int], Pass]] = {
    "torch": _torch,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "artifact": _artifact,
}


def work(what: str, **request: Any) -> Any:
    """The process's entry: one of the two measurements."""
    return {"shapes": over_shapes, "texts": over_texts}[what](**request)


if __name__ == "__main__":
    child_main(work)
