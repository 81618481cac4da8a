"""The gate: what it refuses, and every reason that it gives."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastserve_core.artifacts.artifact import Artifact, Manifest
from fastserve_core.config.nodes import GateOptions
from fastserve_core.errors import OptionError
from fastserve_core.evaluation.gate import Speedup, defers_gate, evaluate_gate, is_decided, models_to_time
from fastserve_core.tasks.load import load_task

TASK = load_task("text_classification", {})
FAST = Speedup(2.0, 3.0)


def model(tmp_path: Path, name: str, accuracy: float, size: int) -> Artifact:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(size))
    measures: dict[str, Any] = {"quality_validation": {"accuracy": accuracy}}
    return Artifact(folder, name, Manifest("text_classification", {}, (), {}, (), {"weights": ""}, measures))


@pytest.fixture
def original(tmp_path: Path) -> Artifact:
    return model(tmp_path, "original", 0.9, 1000)


def reason(candidate: Artifact, original: Artifact, *speedups: Speedup, **options: Any) -> str:
    return evaluate_gate(candidate, original, speedups, GateOptions(**options), TASK).reason


def test_a_smaller_and_faster_model_within_the_budget_passes(tmp_path: Path, original: Artifact) -> None:
    candidate = model(tmp_path, "candidate", 0.891, 500)
    verdict = evaluate_gate(candidate, original, [FAST], GateOptions(), TASK)
    assert verdict.reason == ""
    assert verdict.speedup == {"latency": 2.0, "throughput": 3.0}


def test_every_figure_that_is_over_its_bound_is_reported(tmp_path: Path, original: Artifact) -> None:
    said = reason(model(tmp_path, "candidate", 0.85, 2000), original, Speedup(0.8, 0.9), Speedup(0.5, 1.0))
    assert said.split("; ") == [
        "quality drop 0.0500 is above gate.max_quality_drop=0.01",
        "size ratio 0.50 is below gate.min_size_ratio=1",
        "latency speedup 0.80 is below gate.min_speedup=1",
        "throughput speedup 0.90 is below gate.min_speedup=1",
        "latency speedup 0.50 over the last good model is below gate.min_speedup=1",
    ]


def test_times_within_the_noise_are_as_fast(tmp_path: Path, original: Artifact) -> None:
    candidate = model(tmp_path, "candidate", 0.9, 1000)
    assert reason(candidate, original, Speedup(0.96, 0.97)) == ""
    assert "latency" in reason(candidate, original, Speedup(0.94, 1.0))


def test_a_narrow_refusal_for_speed_needs_another_measurement() -> None:
    options = GateOptions()
    assert not is_decided([Speedup(0.94, 1.0)], options)
    assert not is_decided([FAST, Speedup(2.0, 0.86)], options)
    assert all(is_decided([speedup], options) for speedup in (FAST, Speedup(0.95, 0.96), Speedup(0.84, 1.0)))
    assert is_decided([Speedup(0.94, 1.0)], GateOptions(enabled=False))
    assert is_decided([Speedup(0.94, 1.0)], GateOptions(min_speedup=0.9))


def test_a_higher_bound_is_for_the_original_alone(tmp_path: Path, original: Artifact) -> None:
    candidate = model(tmp_path, "candidate", 0.9, 100)
    assert reason(candidate, original, Speedup(4.0, 4.0), Speedup(1.0, 1.0), min_speedup=4.0) == ""
    assert "gate.min_speedup=4" in reason(candidate, original, Speedup(3.0, 5.0), min_speedup=4.0)
    assert "gate.min_size_ratio=12" in reason(candidate, original, FAST, min_size_ratio=12.0)
    assert reason(candidate, original, FAST, Speedup(0.6, 0.6), min_speedup=0.5) == ""


def test_a_quality_that_is_no_number_is_refused(tmp_path: Path, original: Artifact) -> None:
    assert "quality drop nan" in reason(model(tmp_path, "candidate", float("nan"), 10), original, FAST)


def test_the_gate_of_an_unfinished_model_waits_for_the_training() -> None:
    cut, code, teach, quantize = (
        SimpleNamespace(plugin=SimpleNamespace(**{"wants_training": False, "trains": False} | marks))
        for marks in ({"wants_training": True}, {}, {"trains": True}, {})
    )
    chain: list[Any] = [cut, code, teach, quantize]
    assert defers_gate(chain[0], chain[1:])
    assert defers_gate(chain[1], chain[2:], is_deferred=True)
    assert not defers_gate(chain[1], chain[2:])
    assert not defers_gate(chain[2], chain[3:], is_deferred=True)
    assert not defers_gate(chain[0], chain[3:])


def test_a_gate_that_is_off_refuses_nothing(tmp_path: Path, original: Artifact) -> None:
    assert reason(model(tmp_path, "candidate", 0.1, 5000), original, Speedup(0.1, 0.1), enabled=False) == ""


def test_a_candidate_is_timed_once_where_the_last_good_model_is_the_original(
    tmp_path: Path, original: Artifact
) -> None:
    candidate, other = model(tmp_path, "candidate", 0.9, 1), model(tmp_path, "other", 0.9, 1)
    assert models_to_time(candidate, original, original) == [candidate, original]
    assert models_to_time(candidate, original, other) == [candidate, original, other]


@pytest.mark.parametrize("name", ["min_speedup", "min_size_ratio"])
def test_a_bound_that_is_not_above_zero_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"gate.{name} must be above 0, not 0"):
        GateOptions(**{name: 0})
