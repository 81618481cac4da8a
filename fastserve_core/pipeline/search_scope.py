"""The options that a tuner searches: those of the trainer and the task's training, of the compressors, or of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fastserve_core.errors import ErrorCollector, PlanError, did_you_mean
from fastserve_core.plugins.base import Tuner
from fastserve_core.plugins.registry import ActivePlugin, Registry
from fastserve_core.tasks.task import Task

TRAIN, COMPRESS = "train", "compress"
TASK_PREFIX = "task."


def is_task_path(path: str) -> bool:
    """Return whether the path of an option is that of the task."""
    return path.startswith(TASK_PREFIX)


def searched_stages(tuner: ActivePlugin[Tuner]) -> frozenset[str]:
    """Name the stages whose options a tuner searches; by default the trainer's alone."""
    paths = tuner.plugin.searches
    return frozenset(TRAIN if is_task_path(path) else path.partition(".")[0] for path in paths) or frozenset({TRAIN})


def searches_compressors_only(registry: Registry) -> bool:
    """Return whether the tuner searches compressors only, and so starts from the trained model."""
    return registry.tuner is not None and searched_stages(registry.tuner) == {COMPRESS}


def searched_plugins(registry: Registry, tuner: ActivePlugin[Tuner]) -> list[ActivePlugin[Any]]:
    """List the plugins whose options the tuner searches."""
    stages = searched_stages(tuner)
    return [active for stage in (TRAIN, COMPRESS) if stage in stages for active in registry.plugins_for(stage)]


def options_by_path(plugins: Sequence[ActivePlugin[Any]]) -> dict[str, Any]:
    """Return the options of several plugins by their full path, such as ``train.torch_ddp.lr``."""
    return {f"{active.path}.{name}": value for active in plugins for name, value in asdict(active.options).items()}


def training_options(task: Task) -> dict[str, Any]:
    """Return the task's options that decide how a model is trained, by their full path, such as ``task.NAME``."""
    return {f"{TASK_PREFIX}{name}": getattr(task.options, name) for name in sorted(task.training_options)}


def check_search(registry: Registry, tuner: ActivePlugin[Tuner], task: Task) -> None:
    """Check that the run has everything that the tuner searches.

    Args:
        registry: The plugins of the run.
        tuner: The tuner.
        task: The task of the run.

    Raises:
        PlanError: There is no trainer, or a path names no option of the run's plugins.
        ValidationError: Several of these.
    """
    if TRAIN in searched_stages(tuner) and registry.trainer is None:
        raise PlanError(
            "a tuner needs a trainer to make its trials: add one, e.g. +plugin=[nevergrad,torch_ddp], "
            "or search the compressors of a trained model"
        )
    errors = ErrorCollector()
    for paths, verb in ((tuner.plugin.searches, "searches"), (tuner.plugin.conditions, "has a condition on")):
        for path in paths:
            with errors.collect():
                _check_path(registry, f"{tuner.path} {verb}", path, task)
    errors.raise_if_any()


def _check_path(registry: Registry, subject: str, path: str, task: Task) -> None:
    if is_task_path(path):
        _check_option(subject, path, training_options(task))
        return
    owners = {active.path: active for stage in (TRAIN, COMPRESS) for active in registry.plugins_for(stage)}
    owner, _, _ = path.rpartition(".")
    if owner not in owners:
        hint = did_you_mean(owner, owners)
        raise PlanError(f"{subject} '{path}', but no trainer or compressor '{owner}' is chosen{hint}")
    _check_option(subject, path, options_by_path([owners[owner]]))


def _check_option(subject: str, path: str, known: Mapping[str, Any]) -> None:
    if path not in known:
        raise PlanError(f"{subject} '{path}', but there is no such option{did_you_mean(path, known)}")
