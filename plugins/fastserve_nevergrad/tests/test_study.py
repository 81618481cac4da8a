"""Studies: folds and seeds, several trials at once, earlier studies, conditions, how many trials steps suffice for."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.data import Dataset
from fastserve_core.errors import OptionError, StoreError, TransientError
from fastserve_core.events import WarningRaised
from fastserve_core.plugins import TrialRequest, TrialResult, TuneContext
from fastserve_core.processes import threads_per_process
from fastserve_nevergrad import NevergradOptions
from fastserve_nevergrad.search import search
from fastserve_nevergrad.selection import select_best
from fastserve_nevergrad.study_log import LOG_FILE, read_log
from fastserve_nevergrad.successive_halving import Rungs

LR, METHOD, RANK = "train.toy.lr", "train.toy.method", "train.toy.rank"
SPACE = {LR: {"log": [1e-5, 1e-1]}}


class Trainer:
    """A trainer whose best learning rate is 0.01; keeps every trial, and how many there were at once."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.trials: list[TrialRequest] = []
        self.at_once = self.most = 0
        self._lock, self._seconds = threading.Lock(), seconds

    def __call__(self, trial: TrialRequest) -> TrialResult:
        import math

        with self._lock:
            self.trials.append(trial)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        # those that began later end sooner
        time.sleep(self._seconds / (1 + trial.number % 3))
        with self._lock:
            self.at_once -= 1
        score = -abs(math.log10(trial.options.get(LR, 1.0)) + 2) + 0.01 * trial.repeat
        return TrialResult(score, {"accuracy": score}, trial.budget.stop_at_step or trial.budget.steps or 0)


def run_in(folder: Path, trainer: Trainer, **more: Any) -> TuneContext:
    folder.mkdir(exist_ok=True)
    known = {LR: 1e-4, METHOD: "full", RANK: 8}
    data = Dataset(folder, "", {"train": 90, "validation": 10, "test": 10}, ())
    given: dict[str, Any] = {
        "model": None,
        "task": None,
        "trial_discarder": lambda number: None,
        "seed": 0,
        "threads": 1,
        "data": data,
    } | more
    given = {"trainer_options": known} | given
    return TuneContext(folder=folder, emit=lambda event: None, trial_runner=trainer, **given)


def tried(folder: Path) -> list[dict[str, Any]]:
    return [
        line["options"]
        for line in sorted(read_log(folder / LOG_FILE), key=lambda line: (line["number"], line.get("rung", 0)))
    ]


def test_each_trial_is_trained_on_every_fold_with_every_seed(tmp_path: Path) -> None:
    trainer = Trainer()
    search(run_in(tmp_path, trainer), NevergradOptions(trials=2, folds=3, repeats=2, space=SPACE))
    assert [(trial.number, trial.repeat, trial.folds) for trial in trainer.trials] == [
        (number, repeat, 3) for number in range(2) for repeat in range(6)
    ]
    (first, _) = read_log(tmp_path / LOG_FILE)
    assert len(first["each"]) == 6
    assert first["objective"] == pytest.approx(sum(first["each"]) / 6)


def test_steps_count_the_trainings_of_every_fold(tmp_path: Path) -> None:
    trainer = Trainer()
    search(run_in(tmp_path, trainer), NevergradOptions(trial_steps=10, steps=95, folds=3, space=SPACE))
    assert len(trainer.trials) == 9, "three trials of three trainings; a fourth would take 120 steps"


def test_concurrent_trials_are_reported_in_their_order(tmp_path: Path) -> None:
    options = {"trials": 10, "workers": 3, "space": SPACE}
    trainer = Trainer(seconds=0.03)
    found = search(run_in(tmp_path / "a", trainer), NevergradOptions(**options))
    assert trainer.most == 3
    assert {trial.threads for trial in trainer.trials} == {threads_per_process(3)}
    assert search(run_in(tmp_path / "b", Trainer()), NevergradOptions(**options)) == found
    assert tried(tmp_path / "a") == tried(tmp_path / "b"), "whichever ended first"
    assert len({json.dumps(options) for options in tried(tmp_path / "a")}) == 10


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_trials_at_once_that_are_halved_keep_to_the_steps(tmp_path: Path, workers: int) -> None:
    trainer = Trainer(seconds=0.002)
    options = NevergradOptions(
        trial_steps=135, steps=1080, min_resource=15, workers=workers, space={LR: {"log": [1e-5, 1e-1]}}
    )
    search(run_in(tmp_path, trainer), options)
    used = {line["number"]: line["steps"] for line in read_log(tmp_path / LOG_FILE)}
    assert 1080 - 135 <= sum(used.values()) <= 1080
    assert len(used) > 20
    assert list(used.values()).count(135) >= 2


def test_trials_that_ended_before_a_kill_are_not_repeated(tmp_path: Path) -> None:
    class Killed(Trainer):
        def __call__(self, trial: TrialRequest) -> TrialResult:
            if trial.number == 4:
                time.sleep(0.2)  # the others end meanwhile
                raise KeyboardInterrupt
            return super().__call__(trial)

    options = NevergradOptions(trials=9, workers=3, space=SPACE)
    whole = search(run_in(tmp_path / "calm", Trainer()), options)
    with pytest.raises(KeyboardInterrupt):
        search(run_in(tmp_path / "killed", Killed()), options)
    done = {line["number"] for line in read_log(tmp_path / "killed" / LOG_FILE)}
    assert {0, 1, 2, 3} < done and 4 not in done, "5 and 6 were under way"
    again = Trainer()
    assert search(run_in(tmp_path / "killed", again), options) == whole
    assert {trial.number for trial in again.trials} == set(range(9)) - done
    assert tried(tmp_path / "killed") == tried(tmp_path / "calm")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("error", [TransientError("killed"), StoreError("the disk is full")], ids=repr)
def test_a_failure_of_the_machine_is_no_result_of_a_trial(tmp_path: Path, error: Exception, workers: int) -> None:
    class Struck(Trainer):
        def __call__(self, trial: TrialRequest) -> TrialResult:
            if trial.number == 4:
                time.sleep(0.2)  # the others end meanwhile
                raise error
            if trial.number > 4:
                assert trial.stop is not None and trial.stop.wait(10)
                raise TransientError("the search was stopped")
            return super().__call__(trial)

    options = NevergradOptions(trials=9, workers=workers, space=SPACE)
    calm = search(run_in(tmp_path / "calm", Trainer()), options)
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)):
            search(run_in(tmp_path / "struck", Struck()), options)
    time.sleep(0.1)  # the other workers end
    assert [line["error"] for line in read_log(tmp_path / "struck" / LOG_FILE)] == [""] * 4
    assert search(run_in(tmp_path / "struck", Trainer()), options) == calm
    assert tried(tmp_path / "struck") == tried(tmp_path / "calm")


def test_an_interrupted_search_tells_its_trials_to_end(tmp_path: Path) -> None:
    stops: list[threading.Event] = []

    class Interrupted(Trainer):
        def __call__(self, trial: TrialRequest) -> TrialResult:
            assert trial.stop is not None
            stops.append(trial.stop)
            if trial.number == 0:
                raise KeyboardInterrupt
            assert trial.stop.wait(10)
            raise RuntimeError("ended")

    with pytest.raises(KeyboardInterrupt):
        search(run_in(tmp_path, Interrupted()), NevergradOptions(trials=9, workers=2, space=SPACE))
    assert all(stop.is_set() for stop in stops)


def test_recipes_are_timed_and_so_tried_one_at_a_time(tmp_path: Path) -> None:
    run = run_in(tmp_path, Trainer(), compressor_options={"compress.prune.sparsity": 0.5})
    for options in ({"workers": 2}, {"folds": 2}, {"repeats": 2}):
        with pytest.raises(OptionError, match="recipes are timed, one at a time"):
            search(run, NevergradOptions(space=SPACE, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("place", "damage"),
    [(3, "bit"), (3, "json"), (3, "text"), (0, "json"), (0, "bit")],
)
def test_the_trial_of_a_damaged_line_is_made_again(tmp_path: Path, place: int, damage: str) -> None:
    options, events = NevergradOptions(trials=6, space=SPACE), list[Any]()
    whole = search(run_in(tmp_path / "whole", Trainer()), options)
    log = tmp_path / "whole" / LOG_FILE
    lines = log.read_text().splitlines(keepends=True)
    kept = lines[place]
    lines[place] = {"bit": kept.replace("0", "1", 1), "json": kept[1:], "text": "[1]\n"}[damage]
    log.write_text("".join(lines))
    again = Trainer()
    assert search(replace(run_in(tmp_path / "whole", again), emit=events.append), options) == whole
    assert [trial.number for trial in again.trials] == ([place - 1] if place else [])
    assert [str(log) in event.message for event in events if isinstance(event, WarningRaised)] == [True]
    assert len(read_log(log)) == 6


# -- earlier studies ---------------------------------------------------------------------------------


def test_a_study_learns_from_an_earlier_one(tmp_path: Path) -> None:
    earlier = search(run_in(tmp_path / "a", Trainer()), NevergradOptions(trials=12, space=SPACE))
    folder = tmp_path / "outputs"
    folder.mkdir()
    stage = {"stage": "tune", "plugin": "nevergrad", "status": "done", "artifact": str(tmp_path / "a"), "measures": {}}
    (folder / "run.json").write_text(json.dumps({"stages": [stage]}))
    for number, where in enumerate((tmp_path / "a", tmp_path / "a" / LOG_FILE, folder)):
        options = NevergradOptions(trials=4, warm_start=str(where), space=SPACE)
        found = search(run_in(tmp_path / f"again{number}", Trainer()), options)
        options_tried = tried(tmp_path / f"again{number}")
        assert options_tried[:2] == [{LR: 1e-4}, earlier], "what is there, and the best of the earlier one"
        assert abs(found[LR] - 0.01) <= abs(earlier[LR] - 0.01)


def test_a_study_of_another_space_is_refused_with_the_difference(tmp_path: Path) -> None:
    search(run_in(tmp_path / "a", Trainer()), NevergradOptions(trials=2, space={**SPACE, RANK: {"int": [1, 9]}}))
    space: dict[str, Any] = {LR: {"log": [1e-5, 1e-2]}, METHOD: {"choice": ["full", "lora"]}}
    with pytest.raises(OptionError) as error:
        search(
            run_in(tmp_path / "b", Trainer()), NevergradOptions(trials=2, warm_start=str(tmp_path / "a"), space=space)
        )
    said = str(error.value)
    assert f"{LR}: {{'log': [1e-05, 0.1]}} there, {{'log': [1e-05, 0.01]}} here" in said
    assert f"{RANK}: only there" in said and f"{METHOD}: only here" in said
    with pytest.raises(OptionError, match="has another space"):
        search(run_in(tmp_path / "a", Trainer()), NevergradOptions(trials=2, space=space))


def test_a_folder_without_a_study_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no study in .*nothing-here: set the folder of a run, or a trials\.jsonl"):
        NevergradOptions(trials=2, warm_start=str(tmp_path / "nothing-here"), space=SPACE)


# -- spaces ------------------------------------------------------------------------------------------


def test_an_option_is_searched_only_where_its_condition_holds(tmp_path: Path) -> None:
    space = {METHOD: {"choice": ["full", "lora"]}, RANK: {"int": [1, 64], "when": {METHOD: "lora"}}}
    search(run_in(tmp_path, Trainer()), NevergradOptions(trials=12, space=space))
    options = tried(tmp_path)
    assert all((RANK in trial) == (trial[METHOD] == "lora") for trial in options)
    assert {trial[METHOD] for trial in options} == {"full", "lora"}
    assert options.count({METHOD: "full"}) == 1, "what differs in nothing is not tried twice"


def test_the_trainer_suggests_and_more_is_searched_with_more_trials(tmp_path: Path) -> None:
    suggested = {LR: {"log": [1e-5, 1e-1]}, RANK: {"int": [1, 9]}, METHOD: {"choice": ["full", "lora"]}}
    for trials, names in ((3, {LR, RANK}), (18, {LR, RANK, METHOD})):
        found = search(
            run_in(tmp_path / str(trials), Trainer(), default_search_space=suggested), NevergradOptions(trials=trials)
        )
        assert set(found) == names


# -- how many, and which one -------------------------------------------------------------------------


@given(st.integers(15, 400), st.sampled_from([None, 2, 3, 4]), st.integers(1, 40))
def test_the_steps_suffice_for_so_many_trials(whole: int, halving: int | None, times: int) -> None:
    rungs = Rungs(whole, halving, 15)
    steps, trials = whole * times, rungs.affordable_trials(whole * times)
    assert rungs._total_steps(trials) <= steps < rungs._total_steps(trials + 1)
    assert halving is not None or trials == times


def test_within_the_noise_the_better_rank_is_taken() -> None:
    steady, lucky = [0.80, 0.80, 0.80, 0.80], [0.79, 0.79, 0.79, 0.90]
    assert select_best({0: steady, 1: lucky}) == 0, "better on three folds of four; one lucky fold made the better mean"
    assert select_best({0: [0.70, 0.71, 0.70], 1: [0.80, 0.81, 0.80]}) == 1
    assert select_best({0: [0.5], 1: [0.6], 2: [0.6]}) == 1, "one score each: nothing is known of the noise"


@given(st.dictionaries(st.integers(0, 30), st.lists(st.floats(-1, 1), min_size=4, max_size=4), min_size=1))
def test_nothing_is_taken_that_another_beats_everywhere(scores: dict[int, list[float]]) -> None:
    taken = select_best(scores)
    for other in scores.values():
        assert not all(score > own for score, own in zip(other, scores[taken], strict=True))
