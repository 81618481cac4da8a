"""Several objectives at once and limits: what is told, what is taken, and what is said when nothing keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import OptionError, StageError, ValidationError
from fastserve_core.plugins import TrialRequest, TrialResult, TuneContext
from fastserve_nevergrad import NevergradOptions
from fastserve_nevergrad.objectives import Constraint, Objectives
from fastserve_nevergrad.search import search
from fastserve_nevergrad.study_log import LOG_FILE, read_log

WIDTH = "compress.toy.width"
SPACE = {WIDTH: [0.1, 1.0]}


def compressor(trial: TrialRequest) -> TrialResult:
    """The narrower the faster and smaller, and below a half also worse; the gate refuses what is below a quarter."""
    width = trial.options[WIDTH]
    quality = 0.9 - max(0.0, 0.5 - width) * 0.2
    measures = {
        "objective": quality, "quality_drop": 0.9 - quality, "latency_ms_p50": 10 * width, "size_bytes": 1e8 * width,
        "throughput_per_s": 100 / width, "smaller": 1 / width, "accepted": width >= 0.25,
    }  # fmt: skip
    refused = 0 if measures["accepted"] else 16
    return TrialResult(1 / width - (0.9 - quality) * 1000 - refused, {"accuracy": quality}, 0, measures=measures)


def tuned(folder: Path, **options: Any) -> tuple[float, list[dict[str, Any]]]:
    folder.mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "model": None,
        "task": None,
        "data": None,
        "trial_discarder": lambda number: None,
        "seed": 0,
        "threads": 1,
        "emit": lambda event: None,
    }
    run = TuneContext(folder=folder, trial_runner=compressor, compressor_options={WIDTH: 1.0}, **given)
    found = search(run, NevergradOptions(**{"trials": 24, "space": SPACE} | options))
    return found[WIDTH], read_log(folder / LOG_FILE)


def test_the_best_that_keeps_the_limit_is_taken(tmp_path: Path) -> None:
    free, _ = tuned(tmp_path / "free")
    assert free == pytest.approx(0.5, abs=0.05), "a drop costs more than it gains"
    bound, trials = tuned(tmp_path / "bound", constraints=["latency_ms_p50 <= 4"])
    assert bound <= 0.4
    kept = [line for line in trials if line["measures"]["latency_ms_p50"] <= 4]
    assert len(kept) >= 6, "the optimizer learns which way to go"
    (best,) = (line["objective"] for line in trials if line["options"][WIDTH] == bound)
    assert best == max(line["objective"] for line in kept)


def test_when_nothing_keeps_the_limits_the_nearest_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StageError) as error:
        tuned(tmp_path, trials=5, constraints=["latency_ms_p50 <= 0.5", "quality >= 0.5"])
    assert str(error.value).startswith(
        "no trial satisfies latency_ms_p50 <= 0.5 and quality >= 0.5: the nearest is trial "
    )
    assert ", with latency_ms_p50 " in str(error.value)


def test_objectives_spread_the_trials_and_the_best_of_the_front_is_taken(tmp_path: Path) -> None:
    found, trials = tuned(tmp_path, trials=40, optimizer="TwoPointsDE", objectives=["quality", "size_bytes"])
    goals = Objectives(("quality", "size_bytes"))
    front = goals.pareto_front([line for line in trials if line["measures"]["accepted"]])
    assert len(front) >= 8
    assert all(line["options"][WIDTH] <= 0.6 for line in front), "wider ones are as good, and larger"
    assert found == max(front, key=lambda line: float(line["objective"]))["options"][WIDTH]


def test_a_trial_that_took_no_time_has_a_loss_too() -> None:
    losses = [
        Objectives(("seconds",)).losses({"objective": 0.5, "seconds": seconds})[0] for seconds in (0.0, 0.01, 5.0)
    ]
    assert losses[0] < losses[1] < losses[2]


def test_of_a_training_there_are_its_quality_and_its_time() -> None:
    space = {"train.toy.lr": {"log": [1e-5, 1e-3]}}
    NevergradOptions(space=space, objectives=["quality", "seconds"], constraints=["seconds <= 60"])
    with pytest.raises(ValidationError) as error:
        NevergradOptions(space=space, objectives=["qualty"], constraints=["latency_ms_p50 <= 3", "size < 3"])
    said = str(error.value)
    assert "objectives: a training has no figure 'qualty'; did you mean 'quality'" in said
    assert "constraints: a training has no figure 'latency_ms_p50'" in said
    assert "'size < 3' is not a valid constraint, such as 'latency_ms_p50 <= 3'" in said


@pytest.mark.parametrize(
    ("text", "value", "excess"),
    [
        ("size_bytes<=1e6", 2e6, 1.0),
        ("quality >= 0.8", 0.6, 0.25),
        ("quality_drop <= 0", 0.1, 0.1),
        ("smaller>=2", 3, 0),
    ],
)
def test_limits_are_read_and_missed_by_so_much(text: str, value: float, excess: float) -> None:
    limit = Constraint.parse(text)
    name = "objective" if limit.name == "quality" else limit.name
    assert limit.violation({"objective": value, "measures": {name: value}}) == pytest.approx(excess)


@given(st.text(max_size=30))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    try:
        assert Constraint.parse(text).name in text
    except OptionError as error:
        assert "is not a valid constraint" in str(error)


@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), min_size=1, max_size=20))
def test_the_front_is_of_those_that_nothing_beats(points: list[tuple[float, float]]) -> None:
    goals = Objectives(("latency_ms_p50", "throughput_per_s"))
    lines = [{"measures": {"latency_ms_p50": latency, "throughput_per_s": other}} for latency, other in points]
    front = {tuple(line["measures"].values()) for line in goals.pareto_front(lines)}
    assert front
    for low, high in front:
        assert not any(latency <= low and other >= high * 1.000001 for latency, other in points)
