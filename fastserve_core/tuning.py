"""A tuner's search: the run it is given, its attempts, and what is kept of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_core.errors import StageFailed
from fastserve_core.events import Event, Metric
from fastserve_core.files import write_json
from fastserve_core.hashing import stable_hash
from fastserve_core.run import Attempt, Draft, Trial
from fastserve_core.settings import option_changes

if TYPE_CHECKING:
    from fastserve_core.pipeline import Pipeline
    from fastserve_core.registry import Active
    from fastserve_core.store import Claim


def search(pipeline: Pipeline, active: Active, trainer: Active, claim: Claim) -> None:
    """Have the tuner search, and publish ``tune.json`` (what it found) with the tuner's own logs."""
    work = claim.partial / "work"
    work.mkdir(exist_ok=True)
    run = pipeline.run_for(
        "tune",
        work,
        pipeline.model,
        trainer={f"{trainer.path}.{name}": value for name, value in asdict(trainer.options).items()},
        fixed=frozenset(pipeline.fixed(trainer)),
        attempting=attempts(pipeline, trainer, work),
    )
    found = pipeline.verb(active, "tune", run)
    result = run.fresh_folder("result")
    for log in sorted(work.glob("*.jsonl")):
        shutil.copyfile(log, result / log.name)
    write_json(result / "tune.json", {"found": found, "digest": stable_hash(found)})
    claim.publish(result)


def attempts(pipeline: Pipeline, trainer: Active, work: Path) -> Callable[[Trial], Attempt]:
    """``run.attempt``: the trainer with some options replaced, in a folder of the trial's own.

    A killed trial goes on from its checkpoint; of a finished one only the score is kept.
    """

    def attempt(trial: Trial) -> Attempt:
        folder = work / f"trial-{trial.number:04d}"
        folder.mkdir(exist_ok=True)
        begin = time.perf_counter()
        changes = option_changes(trial.options, trainer.path)
        with pipeline.settings.registry.with_options(trainer, changes) as changed:
            run = pipeline.run_for("train", folder, pipeline.model)
            run = replace(run, budget=trial.budget, emit=_without_metrics(pipeline.tell))
            draft: Draft = pipeline.verb(changed, "train", run)
        if not draft.scores:
            raise StageFailed(f"{trainer.path} gave no validation scores, which a tuner needs")
        shutil.rmtree(folder, ignore_errors=True)
        seconds = round(time.perf_counter() - begin, 2)
        return Attempt(run.task.objective(draft.scores), dict(draft.scores), draft.steps, seconds)

    return attempt


def _without_metrics(tell: Callable[[Event], None]) -> Callable[[Event], None]:
    """A trial's score is told by the tuner, so its metrics are not told too."""

    def emit(event: Event) -> None:
        if not isinstance(event, Metric):
            tell(event)

    return emit
