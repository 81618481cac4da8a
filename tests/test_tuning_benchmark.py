"""The benchmark of tuning: searches keep to the steps, figures are differences of means, a missing peer is said."""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import Any

import pytest

from fastserve_core.plugins import TrialRequest, TrialResult

LR = "train.toy.lr"


@pytest.fixture
def objective(part: Any) -> Any:
    """Best at a learning rate of 0.01, and the better the longer it is trained."""

    def begin(seed: int) -> Any:
        def attempt(trial: TrialRequest) -> TrialResult:
            steps = trial.budget.stop_at_step or trial.budget.steps or 0
            loss = abs(math.log10(trial.options[LR]) + 2) + 1 / steps
            return TrialResult(-loss, {"loss": loss}, steps)

        return attempt

    return part("tuning.setting").Objective("toy", {LR: {"log": [1e-5, 1.0]}}, lambda seed: {LR: 1e-4}, 135, 45, begin)


def test_our_searches_use_no_more_than_the_steps_and_improve(part: Any, objective: Any) -> None:
    ours = part("tuning.ours")
    for options in ({}, {"reduction_factor": None}, {"optimizer": "RandomSearch"}):
        found = ours.nevergrad_search(**options)(objective, 8 * 135, 0)
        assert 7 * 135 <= found.used <= 8 * 135
        assert found.loss < 2, "the options as they are have a loss of 2"
    assert 0 < ours.own_seconds(objective) < 1


def test_the_figures_are_differences_to_ours(
    part: Any, objective: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setting, tune = part("tuning.setting"), part("tune")
    found = {"Optuna A": 0.5, "Optuna B": 0.4, "random": 0.6}
    peers = ModuleType("tuning.peers")
    peers.RANDOM = "random"  # type: ignore[attr-defined]
    peers.PEERS = {  # type: ignore[attr-defined]
        name: lambda objective, steps, seed, loss=loss: setting.Found(loss, steps, 8) for name, loss in found.items()
    }
    monkeypatch.setitem(sys.modules, "tuning.peers", peers)
    monkeypatch.setattr(
        tune, "nevergrad_search", lambda **options: lambda objective, steps, seed: setting.Found(0.3, steps, 28)
    )
    figures = tune.compare(setting.Bench(None, None, 3), objective)
    assert (figures["vs_best_optuna"], figures["vs_random"], figures["best_optuna"]) == (0.1, 0.3, "Optuna B")
    printed = capsys.readouterr().out
    assert "| Optuna B | 0.4000 ± 0.0000 | 8.0 | 0.1000 ± 0.0000 |" in printed
    assert "| ours | 0.3000 ± 0.0000 | 28.0 | 0.0000 ± 0.0000 |" in printed


def test_without_optuna_it_names_the_package_to_install(
    part: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tune = part("tune")
    monkeypatch.setattr(tune, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["tune.py", "--quick"])
    with pytest.raises(SystemExit) as ended:
        tune.main()
    assert ended.value.code == 2
    assert "pip install 'fastserve-core[bench]'" in capsys.readouterr().err
