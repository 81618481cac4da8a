"""A tuner's search: its context, its trials and their logs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.artifacts.files import read_json, write_json
from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import Claim, result_id
from fastserve_core.data.folds import make_fold
from fastserve_core.errors import FastServeError, PlanError, StageError, StoreError, TransientError, VerbError
from fastserve_core.events import Event, Metric, Step
from fastserve_core.pipeline.cache import content_key
from fastserve_core.pipeline.context import make_train_context, make_tune_context
from fastserve_core.pipeline.keys import stage_key
from fastserve_core.pipeline.recipe_trial import StagesFactory, run_compression_trial
from fastserve_core.pipeline.remote_training import serialize_trial
from fastserve_core.pipeline.search_scope import (
    COMPRESS,
    TRAIN,
    options_by_path,
    searched_plugins,
    searched_stages,
    training_options,
)
from fastserve_core.pipeline.session import Session
from fastserve_core.plugins.base import Trainer, Tuner
from fastserve_core.plugins.registry import ActivePlugin
from fastserve_core.plugins.requests import StagedArtifact, TrialRequest, TrialResult
from fastserve_core.plugins.verbs import ask_plugin

TRIALS_DIR = "trials"


def search_result_id(session: Session, tuner: ActivePlugin[Tuner], model: Artifact) -> str:
    """Return the name of a search's result in the store.

    Besides the tuner's key, it depends on the plugins that are searched, on the options that the user set of them,
    and, for compressors, on the gate.
    """
    registry = session.registry
    key: dict[str, Any] = {
        "tuner": content_key(stage_key(session, tuner, model)),
        "fixed": overridden_paths(session, tuner),
    }
    key["trainer"] = [content_key(stage_key(session, trainer, model)) for trainer in registry.plugins_for("train")]
    if COMPRESS in searched_stages(tuner):  # the score of a recipe includes its speed, which depends on the engine
        key["recipe"] = [stage_key(session, active, model) for active in registry.plugins_for("compress")]
        key["gate"] = asdict(session.settings.general.gate)
    return result_id("tune", tuner.name, stable_hash(key))


def overridden_paths(session: Session, tuner: ActivePlugin[Tuner]) -> list[str]:
    """List the options that a tuner does not search, because the user set them."""
    prefixes = tuple(active.path + "." for active in searched_plugins(session.registry, tuner))
    of_task = training_options(session.settings.task)
    return sorted(path for path in session.settings.user_overrides if path.startswith(prefixes) or path in of_task)


def search(
    session: Session, tuner: ActivePlugin[Tuner], model: Artifact, claim: Claim, make_stages: StagesFactory
) -> None:
    """Run the tuner, and publish ``tune.json`` (the best options and every trial) with the tuner's own logs.

    Args:
        session: The run.
        tuner: The tuner.
        model: The model that the trials start from.
        claim: The claim on the search's result.
        make_stages: Makes the stages of a trial.
    """
    work = claim.partial / "work"
    (work / TRIALS_DIR).mkdir(parents=True, exist_ok=True)
    plugins = searched_plugins(session.registry, tuner)
    context = make_tune_context(
        session,
        work,
        model,
        trainer_options=_trainer_options(session, plugins),
        compressor_options=options_by_path([active for active in plugins if active.section == COMPRESS]),
        user_overrides=frozenset(overridden_paths(session, tuner)),
        default_search_space=_default_search_space(model, plugins),
        trial_runner=make_trial_runner(session, tuner, model, work, make_stages),
        trial_discarder=lambda number: _discard_trial(work, number),
    )
    best_options = session.call_plugin(tuner, "tune", context)
    result = context.clean_folder("result")
    for log in sorted(work.glob("*.jsonl")):
        shutil.copyfile(log, result / log.name)
    record = {"best_options": best_options, "digest": stable_hash(best_options), "trials": _read_trials(work)}
    write_json(result / "tune.json", record)
    claim.publish(result)


def _trainer_options(session: Session, plugins: Sequence[ActivePlugin[Any]]) -> dict[str, Any]:
    """Return the options of the searched trainer by path, with those of the task that decide its training."""
    trainers = [active for active in plugins if active.section == TRAIN]
    return {**options_by_path(trainers), **(training_options(session.settings.task) if trainers else {})}


def _default_search_space(model: Artifact, plugins: Sequence[ActivePlugin[Any]]) -> dict[str, Any]:
    """Return the space that the trainer proposes for this model, by path."""
    found: dict[str, Any] = {}
    for active in plugins:
        if isinstance(active.plugin, Trainer):
            space = ask_plugin(active, "search_space", model)
            if not isinstance(space, Mapping):
                fault = f"returned {space!r}: it must return the ranges by option"
                raise VerbError(active.path, "search_space", fault)
            found |= {f"{active.path}.{name}": description for name, description in space.items()}
    return found


def _read_trials(work: Path) -> list[dict[str, Any]]:
    """Read the records of all trials; repeated trainings are one record with the mean score and each score."""
    trials: dict[int, list[dict[str, Any]]] = {}
    for path in sorted((work / TRIALS_DIR).glob("*.json")):
        record = read_json(path)
        trials.setdefault(record["number"], []).append(record)
    return [repeats[0] if len(repeats) == 1 else _aggregate_repeats(repeats) for repeats in trials.values()]


def _aggregate_repeats(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [repeat["score"] for repeat in repeats]
    error = next((repeat["error"] for repeat in repeats if repeat["error"]), "")
    seconds = round(sum(repeat["seconds"] for repeat in repeats), 2)
    return repeats[0] | {
        "score": None if None in scores else fmean(scores), "each": scores, "error": error, "seconds": seconds
    }  # fmt: skip


def make_trial_runner(
    session: Session, tuner: ActivePlugin[Tuner], model: Artifact, work: Path, make_stages: StagesFactory
) -> Callable[[TrialRequest], TrialResult]:
    """Return the function behind ``TuneContext.run_trial``; it also records each trial in the work folder.

    Args:
        session: The run.
        tuner: The tuner.
        model: The model that the trials start from.
        work: The work folder of the search.
        make_stages: Makes the stages of a trial.
    """
    stages = searched_stages(tuner)

    def attempt(trial: TrialRequest) -> TrialResult:
        if COMPRESS in stages:
            return run_compression_trial(make_stages, session, model, trial, is_joint=TRAIN in stages)
        return _train_trial(session, model, trial, work / f"trial-{_trial_name(trial)}")

    def run_trial(trial: TrialRequest) -> TrialResult:
        begin, path = time.perf_counter(), work / TRIALS_DIR / f"{_trial_name(trial)}.json"
        record: dict[str, Any] = {"number": trial.number, "options": dict(trial.options), "score": None, "error": ""}
        try:
            result = retry_once(attempt, trial, session.warn)
        except TransientError:
            raise
        except FastServeError as error:
            write_json(path, record | {"error": str(error), "seconds": round(time.perf_counter() - begin, 2)})
            raise
        result = replace(result, seconds=round(time.perf_counter() - begin, 2))
        record |= {"score": result.objective, "measures": dict(result.measures), "seconds": result.seconds}
        if not trial.repeat and result.steps:
            record["curve"] = [*_earlier_points(path, result.steps), [result.steps, result.objective]]
        write_json(path, record)
        return result

    return run_trial


def retry_once(
    attempt: Callable[[TrialRequest], TrialResult], trial: TrialRequest, warn: Callable[[str], None]
) -> TrialResult:
    """Run a trial, and a second time if its process was killed or memory ran out; a full disk is not tried twice."""
    try:
        return attempt(trial)
    except StoreError:
        raise
    except TransientError as error:
        if trial.stop is not None and trial.stop.is_set():
            raise
        warn(f"trial {trial.number + 1} is made again: {error}")
    try:
        return attempt(trial)
    except TransientError as error:
        raise TransientError(
            f"trial {trial.number + 1} failed twice: {error}\n"
            f"Its options are {dict(trial.options)}. The search is not finished, and the trials before it are kept: "
            "free memory and run the same command again, or search a smaller space"
        ) from error


def _earlier_points(path: Path, steps: int) -> list[Any]:
    """Return the points ``[steps, score]`` of the trial's curve after fewer steps."""
    points = read_json(path).get("curve", []) if path.is_file() else []
    return [point for point in points if point[0] < steps]


def _trial_name(trial: TrialRequest) -> str:
    return f"{trial.number:04d}" + (f"-{trial.repeat}" if trial.repeat else "")


def _discard_trial(work: Path, number: int) -> None:
    for folder in work.glob(f"trial-{number:04d}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _train_trial(session: Session, model: Artifact, trial: TrialRequest, folder: Path) -> TrialResult:
    """Train with some options replaced, in the trial's own folder.

    A killed or stopped trial is resumed from its checkpoint; the folder of a finished one is removed.
    """
    trainer = session.registry.trainer
    if trainer is None:
        raise PlanError("a tuner needs a trainer for its trials")
    folder.mkdir(exist_ok=True)
    registry, trial_trainer = session.registry.with_overrides(trainer, trainer.select_options(trial.options))
    trial_session = session.with_registry(registry).with_task_options(trial.options)
    context = make_train_context(trial_session, folder, model)
    emit = _trial_emitter(session.emit, trial)
    context = replace(context, budget=trial.budget, emit=emit, seed=context.seed + trial.repeat)
    context = replace(context, threads=trial.threads or context.threads)
    if trial.folds is not None:
        number, seed = trial.repeat % trial.folds, session.settings.general.seed + trial.repeat // trial.folds
        context = replace(context, data=make_fold(context.data, context.task, number, trial.folds, seed, session.store))
    if trial.remote_executor is not None:
        result = trial.remote_executor(serialize_trial(trial_trainer, context))
    else:
        staged: StagedArtifact = trial_session.call_plugin(trial_trainer, "train", context)
        result = {"scores": dict(staged.scores), "steps": staged.steps}
    if "error" in result:
        raise (TransientError if result["is_transient"] else StageError)(result["error"])
    if not result["scores"]:
        raise StageError(f"{trainer.path} returned no validation scores, which a tuner needs")
    if result["steps"] != trial.budget.stop_at_step:
        shutil.rmtree(folder, ignore_errors=True)
    return TrialResult(context.task.objective(result["scores"]), result["scores"], result["steps"])


def _trial_emitter(report: Callable[[Event], None], trial: TrialRequest) -> Callable[[Event], None]:
    """Filter a trial's events: no metrics, because the tuner reports its score, and no steps of concurrent trials."""

    def emit(event: Event) -> None:
        if trial.stop is not None and trial.stop.is_set():
            raise TransientError("the search was stopped")
        if not isinstance(event, Metric) and not (trial.stop is not None and isinstance(event, Step)):
            report(event)

    return emit
