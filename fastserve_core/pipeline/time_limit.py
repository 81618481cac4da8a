"""The time limit of a run: a slow machine makes fewer trials and epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.events import Preflight
from fastserve_core.pipeline.context import make_train_context
from fastserve_core.pipeline.session import Session
from fastserve_core.plugins.registry import ActivePlugin

BASE_SECONDS, COMPRESSOR_SECONDS = 45.0, 30.0
"""The time to measure a trained model and to compress it, without the evaluations: on two cores of a Xeon with AMX."""
EVALUATIONS = 10
"""Evaluations of the validation and the test split by the engines that are measured, and for the gate."""


def fit_to_time(session: Session, model: Artifact) -> Session:
    """Shorten the search, then the training, until the run is expected to end within ``preflight.max_minutes``.

    Options that the user set are not changed. Changes are reported, and so is a run that takes longer even so.

    Args:
        session: The run.
        model: The model that it starts from.

    Returns:
        The session with the plugins' new options.
    """
    limit = session.settings.general.preflight.max_minutes
    if limit is None:
        return session
    chosen = _find_fitting(session, model, 60 * limit)
    if chosen is None:
        return session
    shorter, changes, seconds = chosen
    expected = f"the run is expected to take about {max(1, round(seconds / 60))} min"
    if changes:
        session.warn(f"{expected} with {', '.join(changes)}, because preflight.max_minutes={limit:g}")
    elif seconds > 60 * limit:
        session.warn(f"{expected}, more than preflight.max_minutes={limit:g}")
    return shorter


def _find_fitting(session: Session, model: Artifact, limit: float) -> tuple[Session, list[str], float] | None:
    """Return the first session that fits, or the shortest, with its changes and seconds; ``None`` without estimates."""
    chosen = None
    for shorter, changes in _shorter_sessions(session):
        seconds = estimate_run(shorter, model)
        if seconds is None:
            return None
        chosen = shorter, changes, seconds
        if seconds <= limit:
            break
    return chosen


def estimate_training(session: Session, model: Artifact) -> Preflight | None:
    """Return the trainer's estimate of the training, if it makes one."""
    trainer = session.registry.trainer
    if trainer is None:
        return None
    context = make_train_context(session, session.store.home, model)
    estimate: Preflight | None = session.call_plugin(trainer, "preflight", context)
    return estimate


def estimate_run(session: Session, model: Artifact) -> float | None:
    """Estimate the seconds of all stages; ``None`` without an estimate of the training."""
    training = estimate_training(session, model)
    if training is None:
        return None
    trainings, steps = (session.registry.tuner.plugin.search_size() if session.registry.tuner else None) or (0, 0)
    search = trainings * (training.start_seconds + training.evaluation_seconds) + steps * training.step_seconds
    others = BASE_SECONDS + COMPRESSOR_SECONDS * len(session.registry.compressors)
    return search + training.seconds + others + EVALUATIONS * training.evaluation_seconds


def _shorter_sessions(session: Session) -> Iterator[tuple[Session, list[str]]]:
    """Yield the session and shorter ones, with descriptions of the changes."""
    yield session, []
    registry, overrides = session.registry, session.settings.user_overrides
    changes: list[str] = []
    tuner, trainer = registry.tuner, registry.trainer
    if tuner is not None:
        for options in filter(lambda options: _is_free(tuner, options, overrides), tuner.plugin.shorter_options()):
            registry, changes = session.registry.with_overrides(tuner, options)[0], _describe(tuner, options)
            yield session.with_registry(registry), changes
        if "plugin" not in overrides and not any(path.startswith(tuner.path) for path in overrides):
            registry, changes = session.registry.without(tuner), [f"no {tuner.path}"]
            yield session.with_registry(registry), changes
    if trainer is not None:
        for options in filter(lambda options: _is_free(trainer, options, overrides), trainer.plugin.shorter_options()):
            shorter = session.with_registry(registry.with_overrides(trainer, options)[0])
            yield shorter, [*changes, *_describe(trainer, options)]


def _is_free(active: ActivePlugin[Any], options: Mapping[str, Any], overrides: frozenset[str]) -> bool:
    return not any(f"{active.path}.{name}" in overrides for name in options)


def _describe(active: ActivePlugin[Any], options: Mapping[str, Any]) -> list[str]:
    return [f"{active.path}.{name}={value}" for name, value in options.items()]
