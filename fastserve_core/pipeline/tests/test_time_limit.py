"""The time limit: what is shortened, in which order, and what the user set."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from fastserve_core.events import Preflight, WarningRaised
from fastserve_core.pipeline import time_limit
from fastserve_core.pipeline.session import Session
from fastserve_core.pipeline.time_limit import fit_to_time
from fastserve_core.plugins.registry import Registry

STEPS = 100
"""Steps of an epoch."""


@dataclass
class Machine:
    """A run of a tuner with three trials of 40 steps and a trainer with three epochs, on a machine of some speed."""

    step: float
    overrides: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.messages: list[str] = []
        registry = Registry()
        registry.activate(
            "tune", "nevergrad", {"trials": 3, "trial_steps": 40, "space": {"train.torch_ddp.lr": [0, 1]}}
        )
        registry.activate("train", "torch_ddp", {"epochs": 3})
        general = SimpleNamespace(preflight=SimpleNamespace(max_minutes=10))
        settings: Any = SimpleNamespace(general=general, registry=registry, user_overrides=self.overrides)
        self.session = FakeSession(settings, self.messages)

    def estimate(self, session: FakeSession, model: object) -> Preflight:
        assert session.registry.trainer is not None
        steps = STEPS * session.registry.trainer.options.epochs
        return Preflight(0, 0, 0, 0, 0, steps * self.step, is_measured=True, step_seconds=self.step)

    def fit(self, monkeypatch: pytest.MonkeyPatch) -> tuple[int | None, int]:
        monkeypatch.setattr(time_limit, "estimate_training", self.estimate)
        model: Any = None
        registry = fit_to_time(self.session, model).registry
        assert registry.trainer is not None
        return registry.tuner and registry.tuner.options.trials, registry.trainer.options.epochs


class FakeSession(Session):
    """A session without a store."""

    def __init__(self, settings: Any, messages: list[str]) -> None:
        none: Any = None
        super().__init__(settings, none, None, none)
        object.__setattr__(self, "messages", messages)

    def emit(self, event: Any) -> None:
        assert isinstance(event, WarningRaised)
        self.messages.append(event.message)  # type: ignore[attr-defined]

    def with_registry(self, registry: Registry) -> FakeSession:
        settings: Any = SimpleNamespace(**{**vars(self.settings), "registry": registry})
        return FakeSession(settings, self.messages)  # type: ignore[attr-defined]


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("step", "overrides", "trials", "epochs"),
    [
        (1.0, [], 3, 3),  # 120 + 300 steps
        (1.4, [], 2, 3),
        (1.7, [], None, 3),
        (2.5, [], None, 2),
        (5.0, [], None, 1),
        (50.0, [], None, 1),
        (2.5, ["train.torch_ddp.epochs"], None, 3),
        (1.7, ["plugin"], 2, 2),
        (1.7, ["tune.nevergrad.trials"], 3, 2),
    ],
)
def test_a_slow_machine_makes_fewer_trials_then_fewer_epochs(
    step: float, overrides: list[str], trials: int | None, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(step, frozenset(overrides))
    assert machine.fit(monkeypatch) == (trials, epochs)
    is_changed = (trials, epochs) != (3, 3)
    assert len(machine.messages) == int(is_changed)
    if is_changed:
        assert "because preflight.max_minutes=10" in machine.messages[0]
        assert ("no tune.nevergrad" in machine.messages[0]) == (trials is None)
        assert ("epochs=" in machine.messages[0]) == (epochs != 3)


def test_the_session_itself_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(50.0)
    machine.fit(monkeypatch)
    registry = machine.session.registry
    assert registry.tuner is not None
    assert registry.trainer is not None
    assert (registry.tuner.options.trials, registry.trainer.options.epochs) == (3, 3)
