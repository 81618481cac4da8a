"""The search: never worse than the defaults, goes on after a kill, and says what is wrong with a space."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import OptionError, StageError
from fastserve_core.events import Event, TrialFinished, WarningRaised
from fastserve_core.plugins import TrialRequest, TrialResult, TuneContext
from fastserve_core.testing import PluginContract
from fastserve_nevergrad import NevergradOptions
from fastserve_nevergrad.search import search
from fastserve_nevergrad.space import to_plain_values
from fastserve_nevergrad.study_log import LOG_FILE, read_log
from fastserve_nevergrad.successive_halving import Rungs, rung_lengths

LR = "train.toy.lr"
SPACE = {LR: {"log": [1e-5, 1e-1]}}


class TestNevergrad(PluginContract):
    plugin, stage = "nevergrad", "tune"


class Trainer:
    """A trainer whose best learning rate is 0.01, in place of the run's."""

    def __init__(self, fail: frozenset[int] = frozenset(), stop: int | None = None) -> None:
        self.tried: list[int] = []
        self.fail, self.stop = fail, stop

    def __call__(self, trial: TrialRequest) -> TrialResult:
        if trial.number == self.stop:
            raise KeyboardInterrupt
        self.tried.append(trial.number)
        if trial.number in self.fail:
            raise StageError("out of memory")
        import math

        score = -abs(math.log10(trial.options.get(LR, 1.0)) + 2)
        return TrialResult(score, {"accuracy": score}, trial.budget.steps or 0, 0.1)


def make_run(folder: Path, attempts: Trainer, told: list[Event] | None = None, **more: Any) -> TuneContext:
    given: dict[str, Any] = {
        "model": None,
        "task": None,
        "data": None,
        "trial_discarder": lambda number: None,
        "seed": 0,
        "threads": 1,
        "trainer_options": {LR: 1e-4, "train.toy.epochs": 3},
        **more,
    }
    emit = told.append if told is not None else (lambda event: None)
    return TuneContext(folder=folder, emit=emit, trial_runner=attempts, **given)


def test_the_best_is_found_and_the_defaults_are_the_first_trial(tmp_path: Path) -> None:
    told: list[Event] = []
    found = search(make_run(tmp_path, Trainer(), told), NevergradOptions(trials=12, space=SPACE))
    trials = [event for event in told if isinstance(event, TrialFinished)]
    assert trials[0].options == {LR: 1e-4}
    assert len(trials) == 12
    assert len({json.dumps(dict(trial.options)) for trial in trials}) == 12
    assert abs(found[LR] - 0.01) < abs(1e-4 - 0.01)


def test_a_killed_search_continues_and_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    options = NevergradOptions(trials=8, space=SPACE)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    undisturbed = search(make_run(tmp_path / "a", Trainer()), options)
    with pytest.raises(KeyboardInterrupt):
        search(make_run(tmp_path / "b", Trainer(stop=5)), options)
    log = tmp_path / "b" / LOG_FILE
    log.write_text(log.read_text() + '{"number": 5, "opt')  # a line that the kill cut short
    again = Trainer()
    assert search(make_run(tmp_path / "b", again), options) == undisturbed
    assert again.tried == [5, 6, 7]
    assert [line["options"] for line in read_log(tmp_path / "a" / LOG_FILE)] == [
        line["options"] for line in read_log(log)
    ]


def test_failed_trials_are_recorded_and_the_search_continues(tmp_path: Path) -> None:
    found = search(make_run(tmp_path, Trainer(fail=frozenset({0, 2}))), NevergradOptions(trials=5, space=SPACE))
    assert LR in found
    log = read_log(tmp_path / LOG_FILE)
    assert [line["error"] for line in log] == ["out of memory", "", "out of memory", "", ""]


def test_when_every_trial_fails_the_cause_is_reported(tmp_path: Path) -> None:
    trainer = Trainer(fail=frozenset(range(20)))
    with pytest.raises(StageError, match="every trial failed: out of memory"):
        search(make_run(tmp_path, trainer), NevergradOptions(trials=20, space=SPACE))
    assert trainer.tried == [0, 1, 2], "the others would fail too"


def test_the_commonest_of_several_causes_is_reported(tmp_path: Path) -> None:
    class Flawed(Trainer):
        def __call__(self, trial: TrialRequest) -> TrialResult:
            raise StageError("the disk is full" if trial.number == 1 else "out of memory")

    with pytest.raises(StageError, match=r"out of memory \(3 of 4 trials; 1 other causes\)"):
        search(make_run(tmp_path, Flawed()), NevergradOptions(trials=4, space=SPACE))


def test_no_trial_begins_after_the_seconds_are_used_up(tmp_path: Path) -> None:
    class Slow(Trainer):
        def __call__(self, trial: TrialRequest) -> TrialResult:
            time.sleep(0.05)
            return super().__call__(trial)

    trainer = Slow()
    search(make_run(tmp_path, trainer), NevergradOptions(trials=50, timeout_s=0.16, space=SPACE))
    assert 1 <= len(trainer.tried) <= 4
    again = Slow()
    search(make_run(tmp_path, again), NevergradOptions(trials=50, timeout_s=0.16, space=SPACE))
    assert not again.tried, "what an earlier start used up counts"


class Learner(Trainer):
    """Comes nearer to what its learning rate allows the longer it is trained; knows where each trial was paused."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__()
        self.at: dict[int, int] = {}
        self.calls: list[tuple[int, int, int]] = []
        self.given_up: set[int] = set()
        self._stop = stop

    def __call__(self, trial: TrialRequest) -> TrialResult:
        if len(self.calls) == self._stop:
            raise KeyboardInterrupt
        whole = trial.budget.steps or 0
        end = trial.budget.stop_at_step or whole
        assert trial.number not in self.given_up
        self.calls.append((trial.number, self.at.get(trial.number, 0), end))
        self.at[trial.number] = end
        done = super().__call__(trial)
        return TrialResult(done.objective - 1.0 / end, done.scores, end, 0.1)


def halved(folder: Path, learner: Learner, **options: Any) -> tuple[dict[str, Any], list[Event]]:
    told: list[Event] = []
    folder.mkdir(exist_ok=True)
    run = make_run(folder, learner, told, trial_discarder=learner.given_up.add)
    given: dict[str, Any] = {"trials": 18, "trial_steps": 135, "min_resource": 15, "space": SPACE} | options
    return search(run, NevergradOptions(**given)), told


def test_with_halving_the_better_ones_continue_from_where_they_are(tmp_path: Path) -> None:
    learner = Learner()
    found, told = halved(tmp_path, learner)
    assert [call for call in learner.calls if call[0] == 0] == [(0, 0, 15), (0, 15, 45), (0, 45, 135)]
    assert {(begin, end) for _, begin, end in learner.calls} == {(0, 15), (15, 45), (45, 135)}
    whole = {number for number, _, end in learner.calls if end == 135}
    assert len(learner.at) == 18 and 2 <= len(whole) <= 4
    assert abs(found[LR] - 0.01) < abs(1e-4 - 0.01)
    assert sum(end - begin for _, begin, end in learner.calls) < 18 * 135 / 3
    assert learner.given_up and not learner.given_up & whole
    trials = [event for event in told if isinstance(event, TrialFinished)]
    assert [trial.steps for trial in trials if trial.number == 0] == [15, 45, 135]


@pytest.mark.parametrize(("pauses", "steps"), [(True, [15, 40, 40]), (False, [40, 40, 40])])
def test_a_training_that_is_at_its_end_is_not_made_again(tmp_path: Path, pauses: bool, steps: list[int]) -> None:
    class Short(Learner):
        def __call__(self, trial: TrialRequest) -> TrialResult:
            return replace(super().__call__(trial), steps=min(40, (pauses and trial.budget.stop_at_step) or 40))

    learner = Short()
    _, told = halved(tmp_path, learner)
    assert {end for _, _, end in learner.calls} == ({15, 45} if pauses else {15})
    assert {event.steps for event in told if isinstance(event, TrialFinished)} == set(steps)
    assert [line["steps"] for line in read_log(tmp_path / LOG_FILE) if line["number"] == 0] == steps


def test_a_killed_search_with_halving_continues_as_an_undisturbed_one(tmp_path: Path) -> None:
    calm = Learner()
    expected, _ = halved(tmp_path / "calm", calm)
    first = Learner(stop=9)
    with pytest.raises(KeyboardInterrupt):
        halved(tmp_path / "killed", first)
    again = Learner()
    again.at = dict(first.at)
    assert halved(tmp_path / "killed", again)[0] == expected
    assert first.calls + again.calls == calm.calls


def test_steps_bound_all_rungs_together(tmp_path: Path) -> None:
    learner = Learner()
    halved(tmp_path, learner, trials=1000, steps=500)
    used = sum(end - begin for _, begin, end in learner.calls)
    assert 500 - 90 <= used <= 500


def test_an_optimizer_that_breaks_is_reported_and_its_trials_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nevergrad as ng

    told: list[Event] = []

    def broken(optimizer: Any) -> Any:
        raise TypeError("only 0-dimensional arrays")

    monkeypatch.setattr(ng.optimizers.base.Optimizer, "ask", broken)
    search(make_run(tmp_path, Trainer(), told), NevergradOptions(trials=6, optimizer="NGOpt", space=SPACE))
    assert [event.message for event in told if isinstance(event, WarningRaised)] == [
        "nevergrad's NGOpt failed (only 0-dimensional arrays); trials are drawn at random"
    ]
    assert len({json.dumps(line["options"]) for line in read_log(tmp_path / LOG_FILE)}) == 6


def test_nothing_is_halved_that_is_short_or_a_recipe(tmp_path: Path) -> None:
    assert rung_lengths(60, None, 15) == [60]
    assert rung_lengths(29, 2, 15) == [29]
    assert rung_lengths(60, 2, 15) == [15, 30, 60]
    assert rung_lengths(60, 3, NevergradOptions.min_resource) == [60], "the defaults"
    learner = Learner()
    run = make_run(tmp_path, learner, compressor_options={"compress.prune.sparsity": 0.5})
    search(run, NevergradOptions(trials=3, trial_steps=135, space=SPACE))
    assert {end for _, _, end in learner.calls} == {135}


@given(st.lists(st.one_of(st.none(), st.integers(0, 20)), min_size=1, max_size=60), st.integers(2, 4))
def test_whatever_trials_come_to_the_best_that_came_furthest_is_taken(scores: list[int | None], share: int) -> None:
    rungs, at, begun = Rungs(15 * share**2, share, 15), dict[int, int](), 0
    while step := rungs.next_promotion() or ((begun, 0) if begun < len(scores) else rungs.last_promotion()):
        number, rung = step
        assert rung == at.get(number, -1) + 1, "one rung after the other"
        assert number not in rungs.find_pruned(len(scores)), "nothing goes on that was given up"
        at[number] = rung
        begun += rung == 0
        rungs.add(number, rung, scores[number])
    best, good = (
        next(iter(rungs.finalists()), None),
        [number for number, score in enumerate(scores) if score is not None],
    )
    assert (best is None) == (not good)
    if good:
        top = max(at[number] for number in good)
        assert best is not None and at[best] == top == 2
        assert scores[0] is None or (at[0] == 2 and scores[best] >= scores[0])  # type: ignore[operator]


def test_patience_and_the_step_budget_end_the_search(tmp_path: Path) -> None:
    for folder, options, most in (
        ("steps", NevergradOptions(trials=50, trial_steps=60, steps=200, space=SPACE), 3),
        ("patience", NevergradOptions(trials=50, patience=2, space=SPACE), 49),
    ):
        (tmp_path / folder).mkdir()
        trainer = Trainer()
        search(make_run(tmp_path / folder, trainer), options)
        assert 1 <= len(trainer.tried) <= most
    scores = [line["objective"] for line in read_log(tmp_path / "patience" / LOG_FILE)]
    assert max(scores[:-2]) >= max(scores[-2:])


def test_options_set_by_the_user_are_not_searched(tmp_path: Path) -> None:
    told: list[Event] = []
    run = make_run(tmp_path, Trainer(), told, user_overrides=frozenset({LR}))
    assert search(run, NevergradOptions(space=SPACE)) == {}
    assert any(isinstance(event, WarningRaised) and "nothing is left to tune" in event.message for event in told)


def test_the_default_space_is_that_of_the_trainer(tmp_path: Path) -> None:
    trainer = {"train.toy.lr": 1e-4, "train.toy.batch_size": 32}
    found = search(make_run(tmp_path, Trainer(), trainer_options=trainer), NevergradOptions(trials=3))
    assert set(found) == set(trainer)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"train.toy.rl": [0.0, 1.0]}, "no option 'train.toy.rl'; did you mean 'train.toy.lr'"),
        ({LR: [1.0, 1.0]}, "is empty"),
        ({LR: [2.0, 1.0]}, "low must be below high"),
        ({LR: {"log": [0.0, 1.0]}}, "must be above 0"),
        ({LR: {"lgo": [0.1, 1.0]}}, "unknown kind of range 'lgo'; did you mean 'log'"),
        ({LR: {"choice": [1]}}, "at least two"),
        ({LR: "wide"}, "a range is"),
        ({LR: [2.0, 1.0], "x": [1, 1]}, "2 errors"),
        ({LR: {}}, "needs one of log, linear, int, choice, not nothing"),
        ({LR: {"log": [0.1, 1.0], "int": [1, 2]}}, "not log, int"),
        ({LR: {"log": [0.1, 1.0], "when": "lora"}}, "when is {option: value}"),
        ({LR: {"log": [0.1, 1.0], "when": {"train.toy.epoch": 3}}}, "no option 'train.toy.epoch'; did you mean"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(tmp_path: Path, space: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said) as error:
        search(make_run(tmp_path, Trainer()), NevergradOptions(space=space))
    assert error.type.__mro__[1].__name__ in ("UserError", "FastServeError")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trials": 0}, "trials"),
        ({"patience": 0}, "patience"),
        ({"reduction_factor": 1}, "reduction_factor must be at least 2"),
        ({"min_resource": 0}, "min_resource must be at least 1"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"steps": 100, "trial_steps": 60, "folds": 2}, r"trial_steps=60, 2 trainings each"),
        ({"timeout_s": 0}, "timeout_s must be above 0"),
        ({"steps": 10, "trial_steps": 60}, "less than one trial"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        NevergradOptions(**options)  # type: ignore[arg-type]


def test_an_unknown_optimizer_is_reported_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="nevergrad has no 'NGOptt'; did you mean"):
        search(make_run(tmp_path, Trainer()), NevergradOptions(optimizer="NGOptt", space=SPACE))


def test_integers_and_choices_come_back_as_such(tmp_path: Path) -> None:
    trainer = {"train.toy.epochs": 3, "train.toy.batch_size": 32}
    space = {"train.toy.epochs": {"int": [1, 9]}, "train.toy.batch_size": {"choice": [8, 32]}}
    search(make_run(tmp_path, Trainer(), trainer_options=trainer), NevergradOptions(trials=4, space=space))
    for trial in read_log(tmp_path / LOG_FILE):
        assert type(trial["options"]["train.toy.epochs"]) is int
        assert trial["options"]["train.toy.batch_size"] in (8, 32)
    assert to_plain_values({"a": 0.123456789}) == {"a": 0.123457}
