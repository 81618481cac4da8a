"""The real objective: fine-tuning MiniLM on the movie reviews, every training made once and its curve kept.

What a search sees of a training, its validation error after so many steps, is looked up in these curves, as in
tabular benchmarks (Klein & Hutter 2019, https://arxiv.org/abs/1905.04970): so that searches can be repeated often
enough to tell them apart. The learning rate is searched as a number, and the nearest one that was trained counts.
"""

from __future__ import annotations

import math
import random
import sys
import time
from dataclasses import asdict
from typing import Any

from training.runs import fresh
from training.workload import Bench as TrainingBench

from fastserve_core.artifacts import read_json, write_json
from fastserve_core.events import Event, Metric
from fastserve_core.plugins import TrialRequest, TrialResult
from fastserve_core.processes import run_in_child, usable_cores
from fastserve_torch_ddp.options import DDPOptions
from tuning.setting import Attempting, Bench, Objective

TRAIN_ROWS, STEPS, LEAST, EVERY = 2000, 135, 45, 15
RATES = [round(10 ** (-5 + 0.25 * number), 8) for number in range(9)]
BATCHES = [8, 16]
LR, BATCH = "train.torch_ddp.lr", "train.torch_ddp.batch_size"
SPACE = {LR: {"log": [1e-5, 1e-3]}, BATCH: {"choice": BATCHES}}
ORDER_SEED = 0

Curves = dict[str, dict[str, float]]
"""By ``lr/batch_size`` the validation error after each number of steps, and the ``seconds`` of the whole training."""


def minilm(curves: Curves) -> Objective:
    """A search's trials are a curve each."""

    def begin(seed: int) -> Attempting:
        del seed  # a training is the same for every search

        def attempt(trial: TrialRequest) -> TrialResult:
            steps = trial.budget.stop_at_step or trial.budget.steps or 0
            rate = min(RATES, key=lambda one: abs(math.log(one / trial.options[LR])))
            error = curves[f"{rate}/{trial.options[BATCH]}"][str(steps)]
            return TrialResult(-error, {"error": error}, steps)

        return attempt

    return Objective("MiniLM", SPACE, first, STEPS, LEAST, begin)


def first(seed: int) -> dict[str, Any]:
    """Any of the trainings: the default rate is the best of them, and nothing is left to find for who begins there."""
    drawn = random.Random(seed)
    return {LR: drawn.choice(RATES), BATCH: drawn.choice(BATCHES)}


def read_curves(bench: Bench) -> Curves:
    """Every training of the grid; made where ``bench.curves`` has it not."""
    path = bench.curves or bench.scratch / "curves.json"
    curves: Curves = read_json(path) if path.is_file() else {}
    wanted = [(rate, batch) for rate in RATES for batch in BATCHES]
    random.Random(ORDER_SEED).shuffle(wanted)
    for number, (rate, batch) in enumerate(wanted):
        name = f"{rate}/{batch}"
        if name not in curves:
            curves[name] = _train(bench, rate, batch)
            write_json(path, curves)
            print(f"training {number + 1}/{len(wanted)}, lr={rate} batch_size={batch}: {curves[name]}", file=sys.stderr)
    return curves


def _train(bench: Bench, rate: float, batch: int) -> dict[str, float]:
    work = TrainingBench(bench.store, bench.scratch, usable_cores(), 1).reviews(TRAIN_ROWS)
    errors: dict[str, float] = {}

    def listen(event: Event) -> None:
        if isinstance(event, Metric) and event.name == "accuracy":
            errors[str(event.step)] = round(1 - event.value, 6)

    request: dict[str, Any] = {
        "model": work.model,
        "data": work.data.folder,
        "task": [work.task_name, work.task_options, list(work.data.labels)],
        "folder": fresh(bench.scratch / "training"),
        "options": asdict(DDPOptions(lr=rate, batch_size=batch, eval_steps=EVERY, checkpoint_every_s=1e9)),
        "steps": STEPS,
        "seed": 0,
        "cores": usable_cores(),
    }
    begin = time.perf_counter()
    run_in_child("fastserve_torch_ddp.launch", request, usable_cores(), listen)
    return errors | {"seconds": round(time.perf_counter() - begin, 2)}
