"""Trials whose process dies: a second attempt, and no result if that dies too."""

from __future__ import annotations

import threading

import pytest

from fastserve_core.errors import StageError, StoreError, TransientError
from fastserve_core.pipeline.tune import retry_once
from fastserve_core.plugins.requests import Budget, TrialRequest, TrialResult

RESULT = TrialResult(0.5, {"accuracy": 0.5}, 3)


class Attempts:
    """Raises the errors in turn, and then returns a result."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.count = list(errors), 0

    def __call__(self, trial: TrialRequest) -> TrialResult:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return RESULT


def test_a_killed_trial_is_made_again_and_reported() -> None:
    attempts, warnings = Attempts(TransientError("exit code -9")), list[str]()
    assert retry_once(attempts, TrialRequest(4, {}, Budget()), warnings.append) is RESULT
    assert (attempts.count, warnings) == (2, ["trial 5 is made again: exit code -9"])


def test_a_trial_that_is_killed_twice_ends_the_search_with_advice() -> None:
    attempts = Attempts(TransientError("exit code -9"), TransientError("exit code -11"))
    with pytest.raises(TransientError, match=r"(?s)trial 5 failed twice: exit code -11.*'lr': 0.1.*a smaller space"):
        retry_once(attempts, TrialRequest(4, {"lr": 0.1}, Budget()), lambda _: None)


@pytest.mark.parametrize("error", [StageError("the loss is nan"), StoreError("the disk is full")], ids=repr)
def test_a_trial_that_failed_is_not_repeated(error: StageError) -> None:
    attempts = Attempts(error)
    with pytest.raises(type(error), match=str(error)):
        retry_once(attempts, TrialRequest(0, {}, Budget()), pytest.fail)
    assert attempts.count == 1


def test_a_trial_of_a_search_that_was_stopped_is_not_made_again() -> None:
    attempts, stop = Attempts(TransientError("the search was stopped")), threading.Event()
    stop.set()
    with pytest.raises(TransientError, match="stopped"):
        retry_once(attempts, TrialRequest(0, {}, Budget(), stop=stop), pytest.fail)
    assert attempts.count == 1
