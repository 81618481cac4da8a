"""A tuner's search: its context, its trials, and their logs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.artifacts.files import read_json, write_json
from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import Claim, result_id
from fastserve_core.data.folds import fold
from fastserve_core.errors import FastServeError, InvalidPlan, StageFailed
from fastserve_core.events import Event, Metric, Step
from fastserve_core.pipeline.cache import content_key
from fastserve_core.pipeline.context import make_train_context, make_tune_context
from fastserve_core.pipeline.keys import stage_key
from fastserve_core.pipeline.recipe_trial import StagesFactory, run_compression_trial
from fastserve_core.pipeline.remote_training import serialize_trial
from fastserve_core.pipeline.search_scope import COMPRESS, TRAIN, options_by_path, searched_plugins, searched_stages
from fastserve_core.pipeline.session import Session
from fastserve_core.plugins.base import Trainer, Tuner
from fastserve_core.plugins.registry import ActivePlugin
from fastserve_core.plugins.requests import StagedArtifact, TrialRequest, TrialResult

TRIALS_DIR = "attempts"


def search_result_id(session: Session, tuner: ActivePlugin[Tuner], model: Artifact) -> str:
    """A search's result also depends on what it searches, what the user set of it, and what judges its trials."""
    registry = session.registry
    key: dict[str, Any] = {
        "tuner": content_key(stage_key(session, tuner, model)),
        "fixed": overridden_paths(session, tuner),
    }
    key["trainer"] = [content_key(stage_key(session, trainer, model)) for trainer in registry.plugins_for("train")]
    if COMPRESS in searched_stages(tuner):  # recipes are judged by their speed too, and so by the engine
        key["recipe"] = [stage_key(session, active, model) for active in registry.plugins_for("compress")]
        key["gate"] = asdict(session.settings.general.gate)
    return result_id("tune", tuner.name, stable_hash(key))


def overridden_paths(session: Session, tuner: ActivePlugin[Tuner]) -> list[str]:
    """The options that a tuner leaves alone, for the user set them."""
    owners = tuple(active.path + "." for active in searched_plugins(session.registry, tuner))
    return sorted(path for path in session.settings.user_overrides if path.startswith(owners))


def search(
    session: Session, tuner: ActivePlugin[Tuner], model: Artifact, claim: Claim, make_stages: StagesFactory
) -> None:
    """Have the tuner search, and publish ``tune.json`` (what it found, and every trial) with the tuner's own logs."""
    work = claim.partial / "work"
    (work / TRIALS_DIR).mkdir(parents=True, exist_ok=True)
    chosen = searched_plugins(session.registry, tuner)
    context = make_tune_context(
        session,
        work,
        model,
        trainer_options=options_by_path([active for active in chosen if active.place == TRAIN]),
        compressor_options=options_by_path([active for active in chosen if active.place == COMPRESS]),
        user_overrides=frozenset(overridden_paths(session, tuner)),
        default_search_space=_default_search_space(model, chosen),
        trial_runner=make_trial_runner(session, tuner, model, work, make_stages),
        trial_discarder=lambda number: _discard_trial(work, number),
    )
    found = session.call_plugin(tuner, "tune", context)
    result = context.clean_folder("result")
    for log in sorted(work.glob("*.jsonl")):
        shutil.copyfile(log, result / log.name)
    write_json(result / "tune.json", {"found": found, "digest": stable_hash(found), "trials": _read_trials(work)})
    claim.publish(result)


def _default_search_space(model: Artifact, chosen: Sequence[ActivePlugin[Any]]) -> dict[str, Any]:
    """Return the space that the trainer proposes for this model, by path."""
    return {
        f"{active.path}.{name}": description
        for active in chosen
        if isinstance(active.plugin, Trainer)
        for name, description in active.plugin.search_space(model).items()
    }


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


def make_trial_runner(
    session: Session, tuner: ActivePlugin[Tuner], model: Artifact, work: Path, make_stages: StagesFactory
) -> Callable[[TrialRequest], TrialResult]:
    """``run.attempt``: one trial of what the tuner searches; what it came to is kept by its number."""
    stages = searched_stages(tuner)

    def attempt(trial: TrialRequest) -> TrialResult:
        begin = time.perf_counter()
        line: dict[str, Any] = {"number": trial.number, "options": dict(trial.options), "score": None, "error": ""}
        try:
            if COMPRESS in stages:
                made = run_compression_trial(make_stages, session, model, trial, is_joint=TRAIN in stages)
            else:
                made = _train(session, model, trial, work / f"trial-{_name(trial)}")
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


def _discard_trial(work: Path, number: int) -> None:
    for folder in work.glob(f"trial-{number:04d}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _train(session: Session, model: Artifact, trial: TrialRequest, folder: Path) -> TrialResult:
    """Train with some options replaced, in a folder of the trial's own.

    A killed or stopped trial is resumed from its checkpoint; only the score of a finished one is kept.
    """
    trainer = session.registry.trainer
    if trainer is None:
        raise InvalidPlan("a tuner needs a trainer to make its trials")
    folder.mkdir(exist_ok=True)
    registry, changed = session.registry.with_overrides(trainer, trainer.select_options(trial.options))
    beside = session.with_registry(registry)
    context = make_train_context(beside, folder, model)
    emit = _trial_emitter(session.emit, trial)
    context = replace(context, budget=trial.budget, emit=emit, seed=context.seed + trial.repeat)
    context = replace(context, threads=trial.threads or context.threads)
    if trial.folds is not None:
        number, seed = trial.repeat % trial.folds, session.settings.general.seed + trial.repeat // trial.folds
        context = replace(context, data=fold(context.data, context.task, number, trial.folds, seed, session.store))
    if trial.remote_executor is not None:
        done = trial.remote_executor(serialize_trial(changed, context))
    else:
        staged: StagedArtifact = beside.call_plugin(changed, "train", context)
        done = {"scores": dict(staged.scores), "steps": staged.steps}
    if "error" in done:
        raise StageFailed(done["error"])
    if not done["scores"]:
        raise StageFailed(f"{trainer.path} gave no validation scores, which a tuner needs")
    if done["steps"] != trial.budget.stop_at_step:
        shutil.rmtree(folder, ignore_errors=True)
    return TrialResult(context.task.objective(done["scores"]), done["scores"], done["steps"])


def _trial_emitter(report: Callable[[Event], None], trial: TrialRequest) -> Callable[[Event], None]:
    """A trial's score is told by the tuner, so its metrics are not told too; nor are the steps of several at once."""

    def emit(event: Event) -> None:
        if trial.stop is not None and trial.stop.is_set():
            raise StageFailed("the search was ended")
        if not isinstance(event, Metric) and not (trial.stop is not None and isinstance(event, Step)):
            report(event)

    return emit
