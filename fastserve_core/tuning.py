"""A tuner's search: the run it is given, its attempts, and what is kept of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifact import Artifact
from fastserve_core.errors import FastServeError, StageFailed
from fastserve_core.events import Event, Metric
from fastserve_core.files import read_json, write_json
from fastserve_core.hashing import stable_hash
from fastserve_core.recipes import COMPRESS, TRAIN, options_by_path, searched, stages_of, try_recipe
from fastserve_core.run import Attempt, Draft, Trial
from fastserve_core.settings import option_changes
from fastserve_core.store import result_name
from fastserve_core.twins import made_of

if TYPE_CHECKING:
    from fastserve_core.pipeline import Pipeline
    from fastserve_core.registry import Active
    from fastserve_core.store import Claim

ATTEMPTS = "attempts"


def tune_name(pipeline: Pipeline, tuner: Active, model: Artifact) -> str:
    """A search's result also depends on what it searches, what the user set of it, and what judges its trials."""
    registry = pipeline.settings.registry
    key: dict[str, Any] = {"tuner": made_of(pipeline.key(tuner, model)), "fixed": fixed(pipeline, tuner)}
    key["trainer"] = [made_of(pipeline.key(trainer, model)) for trainer in registry.of("train")]
    if COMPRESS in stages_of(tuner):  # recipes are judged by their speed too, and so by the engine
        key["recipe"] = [pipeline.key(active, model) for active in registry.of("compress")]
        key["gate"] = asdict(pipeline.settings.general.gate)
    return result_name("tune", tuner.name, stable_hash(key))


def fixed(pipeline: Pipeline, tuner: Active) -> list[str]:
    """The options that a tuner leaves alone, for the user set them."""
    owners = tuple(active.path + "." for active in searched(pipeline.settings.registry, tuner))
    return sorted(path for path in pipeline.settings.fixed if path.startswith(owners))


def search(pipeline: Pipeline, tuner: Active, claim: Claim) -> None:
    """Have the tuner search, and publish ``tune.json`` (what it found, and every trial) with the tuner's own logs."""
    work = claim.partial / "work"
    (work / ATTEMPTS).mkdir(parents=True, exist_ok=True)
    chosen = searched(pipeline.settings.registry, tuner)
    run = pipeline.run_for(
        "tune",
        work,
        pipeline.model,
        trainer=options_by_path([one for one in chosen if one.place == TRAIN]),
        recipe=options_by_path([one for one in chosen if one.place == COMPRESS]),
        fixed=frozenset(fixed(pipeline, tuner)),
        attempting=attempts(pipeline, tuner, work),
        giving_up=lambda number: shutil.rmtree(_folder(work, number), ignore_errors=True),
    )
    found = pipeline.verb(tuner, "tune", run)
    result = run.fresh_folder("result")
    for log in sorted(work.glob("*.jsonl")):
        shutil.copyfile(log, result / log.name)
    trials = [read_json(path) for path in sorted((work / ATTEMPTS).glob("*.json"))]
    write_json(result / "tune.json", {"found": found, "digest": stable_hash(found), "trials": trials})
    claim.publish(result)


def attempts(pipeline: Pipeline, tuner: Active, work: Path) -> Callable[[Trial], Attempt]:
    """``run.attempt``: one trial of what the tuner searches; what it came to is kept by its number."""
    stages = stages_of(tuner)

    def attempt(trial: Trial) -> Attempt:
        begin = time.perf_counter()
        line: dict[str, Any] = {"number": trial.number, "options": dict(trial.options), "score": None, "error": ""}
        try:
            if COMPRESS in stages:
                made = try_recipe(pipeline, trial, joint=TRAIN in stages)
            else:
                made = _train(pipeline, trial, _folder(work, trial.number))
            line |= {"score": made.objective, "measures": dict(made.measures)}
        except FastServeError as error:
            line["error"] = str(error)
            raise
        finally:
            line["seconds"] = round(time.perf_counter() - begin, 2)
            write_json(work / ATTEMPTS / f"{trial.number:04d}.json", line)
        return replace(made, seconds=line["seconds"])

    return attempt


def _folder(work: Path, number: int) -> Path:
    return work / f"trial-{number:04d}"


def _train(pipeline: Pipeline, trial: Trial, folder: Path) -> Attempt:
    """The trainer with some options replaced, in a folder of the trial's own.

    A killed trial goes on from its checkpoint, as does one that was paused; of a finished one only the score is kept.
    """
    (trainer,) = pipeline.settings.registry.of("train")
    folder.mkdir(exist_ok=True)
    with pipeline.settings.registry.with_options(trainer, option_changes(trial.options, trainer.path)) as changed:
        run = pipeline.run_for("train", folder, pipeline.model)
        run = replace(run, budget=trial.budget, emit=_without_metrics(pipeline.tell))
        draft: Draft = pipeline.verb(changed, "train", run)
    if not draft.scores:
        raise StageFailed(f"{trainer.path} gave no validation scores, which a tuner needs")
    if draft.steps != trial.budget.pause:
        shutil.rmtree(folder, ignore_errors=True)
    return Attempt(run.task.objective(draft.scores), dict(draft.scores), draft.steps)


def _without_metrics(tell: Callable[[Event], None]) -> Callable[[Event], None]:
    """A trial's score is told by the tuner, so its metrics are not told too."""

    def emit(event: Event) -> None:
        if not isinstance(event, Metric):
            tell(event)

    return emit
