"""A tuner's search: the run it is given, its attempts, and what is kept of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.artifacts.files import read_json, write_json
from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import result_id
from fastserve_core.data.folds import fold
from fastserve_core.errors import FastServeError, StageFailed
from fastserve_core.events import Event, Metric, Step
from fastserve_core.pipeline.cache import content_key
from fastserve_core.pipeline.recipe_trial import (
    COMPRESS,
    TRAIN,
    options_by_path,
    run_compression_trial,
    searched_paths,
    stages_of,
)
from fastserve_core.pipeline.remote_training import serialize_trial
from fastserve_core.pipeline.settings import option_changes
from fastserve_core.plugins.contexts import StagedArtifact, TrialRequest, TrialResult

if TYPE_CHECKING:
    from fastserve_core.artifacts.store import Claim
    from fastserve_core.pipeline.context import Pipeline
    from fastserve_core.plugins.registry import ActivePlugin

TRIALS_DIR = "attempts"


def tune_name(pipeline: Pipeline, tuner: ActivePlugin, model: Artifact) -> str:
    """A search's result also depends on what it searches, what the user set of it, and what judges its trials."""
    registry = pipeline.settings.registry
    key: dict[str, Any] = {"tuner": content_key(pipeline.key(tuner, model)), "fixed": fixed_options(pipeline, tuner)}
    key["trainer"] = [content_key(pipeline.key(trainer, model)) for trainer in registry.plugins_for("train")]
    if COMPRESS in stages_of(tuner):  # recipes are judged by their speed too, and so by the engine
        key["recipe"] = [pipeline.key(active, model) for active in registry.plugins_for("compress")]
        key["gate"] = asdict(pipeline.settings.general.gate)
    return result_id("tune", tuner.name, stable_hash(key))


def fixed_options(pipeline: Pipeline, tuner: ActivePlugin) -> list[str]:
    """The options that a tuner leaves alone, for the user set them."""
    owners = tuple(active.path + "." for active in searched_paths(pipeline.settings.registry, tuner))
    return sorted(path for path in pipeline.settings.fixed if path.startswith(owners))


def search(pipeline: Pipeline, tuner: ActivePlugin, claim: Claim) -> None:
    """Have the tuner search, and publish ``tune.json`` (what it found, and every trial) with the tuner's own logs."""
    work = claim.partial / "work"
    (work / TRIALS_DIR).mkdir(parents=True, exist_ok=True)
    chosen = searched_paths(pipeline.settings.registry, tuner)
    run = pipeline.run_for(
        "tune",
        work,
        pipeline.model,
        trainer=options_by_path([one for one in chosen if one.place == TRAIN]),
        recipe=options_by_path([one for one in chosen if one.place == COMPRESS]),
        fixed=frozenset(fixed_options(pipeline, tuner)),
        suggested=_suggested(pipeline, chosen),
        attempting=make_trial_runner(pipeline, tuner, work),
        giving_up=lambda number: _give_up(work, number),
    )
    found = pipeline.verb(tuner, "tune", run)
    result = run.fresh_folder("result")
    for log in sorted(work.glob("*.jsonl")):
        shutil.copyfile(log, result / log.name)
    write_json(result / "tune.json", {"found": found, "digest": stable_hash(found), "trials": _read_trials(work)})
    claim.publish(result)


def _suggested(pipeline: Pipeline, chosen: list[ActivePlugin]) -> dict[str, Any]:
    """What the trainer would search for this model, by path: its ``search_space``, where it has one."""
    found: dict[str, Any] = {}
    for active in chosen:
        if (asked := getattr(active.plugin, "search_space", None)) is not None:
            found |= {f"{active.path}.{name}": one for name, one in asked(pipeline.model).items()}
    return found


def _read_trials(work: Path) -> list[dict[str, Any]]:
    """A line for each trial; what was trained several times has the mean of its scores, and each of them."""
    trials: dict[int, list[dict[str, Any]]] = {}
    for path in sorted((work / TRIALS_DIR).glob("*.json")):
        line = read_json(path)
        trials.setdefault(line["number"], []).append(line)
    return [lines[0] if len(lines) == 1 else _aggregate_repeats(lines) for lines in trials.values()]


def _aggregate_repeats(lines: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [line["score"] for line in lines]
    error = next((line["error"] for line in lines if line["error"]), "")
    seconds = round(sum(line["seconds"] for line in lines), 2)
    return lines[0] | {
        "score": None if None in scores else fmean(scores), "each": scores, "error": error, "seconds": seconds
    }  # fmt: skip


def make_trial_runner(pipeline: Pipeline, tuner: ActivePlugin, work: Path) -> Callable[[TrialRequest], TrialResult]:
    """``run.attempt``: one trial of what the tuner searches; what it came to is kept by its number."""
    stages = stages_of(tuner)

    def attempt(trial: TrialRequest) -> TrialResult:
        begin = time.perf_counter()
        line: dict[str, Any] = {"number": trial.number, "options": dict(trial.options), "score": None, "error": ""}
        try:
            if COMPRESS in stages:
                made = run_compression_trial(pipeline, trial, joint=TRAIN in stages)
            else:
                made = _train(pipeline, trial, work / f"trial-{_name(trial)}")
            line |= {"score": made.objective, "measures": dict(made.measures)}
            if not trial.repeat and made.steps:
                line["curve"] = [
                    *_append_curve(work / TRIALS_DIR / f"{_name(trial)}.json", made.steps),
                    [made.steps, made.objective],
                ]
        except FastServeError as error:
            line["error"] = str(error)
            raise
        finally:
            line["seconds"] = round(time.perf_counter() - begin, 2)
            write_json(work / TRIALS_DIR / f"{_name(trial)}.json", line)
        return replace(made, seconds=line["seconds"])

    return attempt


def _append_curve(path: Path, steps: int) -> list[Any]:
    """What the trial came to after fewer steps."""
    earlier = read_json(path).get("curve", []) if path.is_file() else []
    return [point for point in earlier if point[0] < steps]


def _name(trial: TrialRequest) -> str:
    return f"{trial.number:04d}" + (f"-{trial.repeat}" if trial.repeat else "")


def _give_up(work: Path, number: int) -> None:
    for folder in work.glob(f"trial-{number:04d}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _train(pipeline: Pipeline, trial: TrialRequest, folder: Path) -> TrialResult:
    """The trainer with some options replaced, in a folder of the trial's own.

    A killed trial goes on from its checkpoint, as does one that was paused; of a finished one only the score is kept.
    """
    registry = pipeline.settings.registry
    (trainer,) = registry.plugins_for("train")
    folder.mkdir(exist_ok=True)
    registry, changed = registry.with_overrides(trainer, option_changes(trial.options, trainer.path))
    beside = replace(pipeline, settings=replace(pipeline.settings, registry=registry))
    run = beside.run_for("train", folder, pipeline.model)
    run = replace(run, budget=trial.budget, emit=_trial_emitter(pipeline.tell, trial), seed=run.seed + trial.repeat)
    run = replace(run, threads=trial.threads or run.threads)
    if trial.folds is not None:
        number, seed = trial.repeat % trial.folds, pipeline.settings.general.seed + trial.repeat // trial.folds
        run = replace(run, source=fold(run.data, run.task, number, trial.folds, seed, pipeline.store))
    if trial.elsewhere is not None:
        done = trial.elsewhere(serialize_trial(changed, run))
    else:
        draft: StagedArtifact = beside.verb(changed, "train", run)
        done = {"scores": dict(draft.scores), "steps": draft.steps}
    if "error" in done:
        raise StageFailed(done["error"])
    if not done["scores"]:
        raise StageFailed(f"{trainer.path} gave no validation scores, which a tuner needs")
    if done["steps"] != trial.budget.pause:
        shutil.rmtree(folder, ignore_errors=True)
    return TrialResult(run.task.objective(done["scores"]), done["scores"], done["steps"])


def _trial_emitter(tell: Callable[[Event], None], trial: TrialRequest) -> Callable[[Event], None]:
    """A trial's score is told by the tuner, so its metrics are not told too; nor are the steps of several at once."""

    def emit(event: Event) -> None:
        if trial.stop is not None and trial.stop.is_set():
            raise StageFailed("the search was ended")
        if not isinstance(event, Metric) and not (trial.stop is not None and isinstance(event, Step)):
            tell(event)

    return emit
