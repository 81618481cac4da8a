"""Optuna's searches over the same objective, as its documents write them: ask, report, prune, tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from fastserve_core.plugins import Budget, TrialRequest
from fastserve_nevergrad.distributions import read_range
from tuning.setting import Found, Objective, Search

ETA = 3


def optuna_search(sampler: type[BaseSampler], pruner: Callable[[int, int], BasePruner]) -> Search:
    """``pruner`` is made of the least and the most steps, in reports."""

    def search(objective: Objective, budget: int, seed: int) -> Found:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=sampler(seed=seed), pruner=pruner(1, objective.steps // objective.least))
        study.enqueue_trial(dict(objective.first(seed)))
        attempt, used = objective.begin(seed), 0
        while used < budget:
            trial = study.ask()
            options = {path: _suggest(trial, path, one) for path, one in objective.space.items()}
            state = optuna.trial.TrialState.COMPLETE
            for steps in range(objective.least, objective.steps + 1, objective.least):
                if used >= budget:
                    state = optuna.trial.TrialState.FAIL
                    break
                made = attempt(TrialRequest(trial.number, options, Budget(objective.steps, steps)))
                used += objective.least
                trial.report(-made.objective, steps // objective.least)
                if steps < objective.steps and trial.should_prune():
                    state = optuna.trial.TrialState.PRUNED
                    break
            value = -made.objective if state is optuna.trial.TrialState.COMPLETE else None
            study.tell(trial, value, state)
        return Found(study.best_value, used, len(study.trials))

    return search


def _suggest(trial: optuna.Trial, path: str, description: Any) -> Any:
    kind, values = read_range(path, description)
    if kind == "choice":
        return trial.suggest_categorical(path, values)
    if kind == "int":
        return trial.suggest_int(path, *values)
    return trial.suggest_float(path, *values, log=kind == "log")


RANDOM = "random"
PEERS: Mapping[str, Search] = {
    "Optuna TPE": optuna_search(TPESampler, lambda least, most: NopPruner()),
    "Optuna TPE + Hyperband": optuna_search(
        TPESampler, lambda least, most: HyperbandPruner(min_resource=least, max_resource=most, reduction_factor=ETA)
    ),
    "Optuna TPE + successive halving": optuna_search(
        TPESampler, lambda least, most: SuccessiveHalvingPruner(min_resource=least, reduction_factor=ETA)
    ),
    "Optuna TPE + median pruner": optuna_search(TPESampler, lambda least, most: MedianPruner()),
    RANDOM: optuna_search(RandomSampler, lambda least, most: NopPruner()),
}
