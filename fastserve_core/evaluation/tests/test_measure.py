"""Measuring on several engines, of which one fails or is killed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fastserve_core.artifacts import TRAINABLE, Artifact, Manifest
from fastserve_core.data import Dataset
from fastserve_core.errors import StageError, StoreError, TransientError
from fastserve_core.evaluation import measure
from fastserve_core.events import Event, WarningRaised
from fastserve_core.tasks import Encoded, load_task

MEASURES = {"quality_validation": {"accuracy": 0.5}, "throughput_per_s": 1.0, "latency_ms_p50": 1.0}


def measure_with(
    monkeypatch: pytest.MonkeyPatch, errors: Mapping[str, list[Exception]], events: list[Event]
) -> dict[str, dict[str, Any]]:
    """Measure on torch and OpenVINO, whose processes raise the errors in turn and then return measures."""

    def run(module: str, request: Mapping[str, Any], *_: Any) -> dict[str, Any]:
        if pending := errors.get(request["engine"]):
            raise pending.pop(0)
        return dict(MEASURES)

    monkeypatch.setattr(measure, "run_in_child", run)
    runtime = {"engine": "torch", "form": TRAINABLE}
    artifact = Artifact(Path("model"), "", Manifest("text_classification", {}, ("a", "b"), runtime, (), {}))
    task = load_task("text_classification", {}, ["a", "b"])
    return measure.measure_artifact(
        artifact, Dataset(Path("data"), "", {}, ()), task, events.append, ["torch", "openvino"]
    )


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_engine_whose_process_was_killed_is_measured_again(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    events: list[Event] = []
    measured = measure_with(monkeypatch, {engine: [TransientError("exit code -9")]}, events)
    assert set(measured) == {"torch", "openvino"}
    assert events == [WarningRaised(f"the engine {engine} is measured again: exit code -9")]


@pytest.mark.parametrize("errors", [[StageError("an operator")], [TransientError("a"), TransientError("b")]], ids=repr)
def test_an_engine_that_does_not_run_is_left_out(monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> None:
    events: list[Event] = []
    assert set(measure_with(monkeypatch, {"openvino": list(errors)}, events)) == {"torch"}
    assert events[-1] == WarningRaised(f"the engine openvino does not run this model: {errors[-1]}")


def test_a_full_disk_leaves_out_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="No space"):
        measure_with(monkeypatch, {"openvino": [StoreError("No space left on device")]}, [])


class RecordingPredictor:
    """Answers nothing, and keeps the sizes of the batches."""

    def __init__(self) -> None:
        self.task = load_task("text_classification", {}, ["a", "b"])
        self.sizes: list[list[int]] = []

    def answer_all(self, batches: list[list[Encoded]], options: Mapping[str, Any]) -> Iterator[list[None]]:
        self.sizes.append([len(batch) for batch in batches])
        yield from ([None] * len(batch) for batch in batches)


@pytest.mark.parametrize(
    ("rows", "timed"), [(5, [[5]]), (30, [[8, 8, 8, 6], [30]]), (70, [[8] * 8 + [6], [32, 32, 6], [64, 6]])]
)
def test_batches_that_are_the_same_are_timed_once(rows: int, timed: list[list[int]]) -> None:
    predictor: Any = RecordingPredictor()
    assert measure.measure_throughput(predictor, [Encoded({"input_ids": [1, 2]}) for _ in range(rows)]) > 0
    assert predictor.sizes[1::2] == timed  # the others are warm-ups
