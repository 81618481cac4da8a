"""Our searches over the same objective, by the tuner's own code."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastserve_core.plugins import TrialRequest, TrialResult, TuneContext
from fastserve_nevergrad import NevergradOptions
from fastserve_nevergrad.search import search
from fastserve_nevergrad.study_log import LOG_FILE, read_log
from tuning.setting import Attempting, Found, Objective, Search


def nevergrad_search(**options: Any) -> Search:
    """With these of the tuner's options."""

    def run(objective: Objective, budget: int, seed: int) -> Found:
        chosen = NevergradOptions(trial_steps=objective.steps, steps=budget, space=dict(objective.space), **options)
        with tempfile.TemporaryDirectory(prefix="fastserve-bench-") as folder:
            given: dict[str, Any] = {"model": None, "task": None, "data": None, "threads": 1}
            search(
                TuneContext(
                    folder=Path(folder), seed=seed, emit=lambda event: None, **given,
                    trainer_options=dict(objective.first(seed)),
                    trial_runner=objective.begin(seed), trial_discarder=lambda number: None,
                ),
                chosen,
            )  # fmt: skip
            log = read_log(Path(folder, LOG_FILE))
        used = {one["number"]: one["steps"] for one in log}
        whole = [-one["objective"] for one in log if one["steps"] == objective.steps]
        return Found(min(whole), sum(used.values()), len(used))

    return run


def own_seconds(objective: Objective) -> float:
    """What the tuner itself takes for a trial: a search's time without that of its attempts."""
    inside = [0.0]

    def begin(seed: int) -> Attempting:
        attempt = objective.begin(seed)

        def timed(trial: TrialRequest) -> TrialResult:
            start = time.perf_counter()
            made = attempt(trial)
            inside[0] += time.perf_counter() - start
            return made

        return timed

    start = time.perf_counter()
    found = nevergrad_search()(replace(objective, begin=begin), 8 * objective.steps, 0)
    return (time.perf_counter() - start - inside[0]) / found.trials
