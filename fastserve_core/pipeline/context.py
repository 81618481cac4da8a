"""The context of each verb, made from a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.pipeline.session import Session
from fastserve_core.plugins.contexts import CompressContext, ServeContext, TrainContext, TuneContext
from fastserve_core.plugins.requests import RetrainRequest, StagedArtifact
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.tasks.load import load_task
from fastserve_core.tasks.task import Task


def labels_after(session: Session, stage: str, model: Artifact) -> tuple[str, ...]:
    """Return the labels of a stage's result: training learns those of the data, later stages keep the model's."""
    if stage in ("tune", "train") and session.data is not None:
        return tuple(session.data.labels)
    return tuple(model.manifest.labels)


def make_train_context(session: Session, folder: Path, model: Artifact) -> TrainContext:
    """Make the context of ``train``.

    Raises:
        PlanError: The run has no data.
    """
    return TrainContext(**_base(session, "train", folder, model), data=session.require_data(), budget=session.budget)


def make_tune_context(session: Session, folder: Path, model: Artifact, **search: Any) -> TuneContext:
    """Make the context of ``tune``.

    Args:
        session: The run.
        folder: The work folder.
        model: The current model.
        search: The attributes that only ``TuneContext`` has.
    """
    return TuneContext(**_base(session, "tune", folder, model), data=session.require_data(), **search)


def make_compress_context(
    session: Session,
    folder: Path,
    model: Artifact,
    original: Artifact,
    retrainer: Callable[[RetrainRequest], StagedArtifact],
) -> CompressContext:
    """Make the context of ``compress``.

    Args:
        session: The run.
        folder: The work folder.
        model: The current model.
        original: The model before the first compressor.
        retrainer: Trains a model with the run's trainer; not used if the run has none.
    """
    return CompressContext(
        **_base(session, "compress", folder, model),
        data=session.require_data(),
        original=original,
        retrainer=retrainer if session.registry.trainer is not None else None,
    )


def make_serve_context(session: Session, folder: Path, model: Artifact) -> ServeContext:
    """Make the context of ``serve``."""
    return ServeContext(**_base(session, "serve", folder, model))


def _base(session: Session, stage: str, folder: Path, model: Artifact) -> dict[str, Any]:
    settings = session.settings
    task: Task = load_task(settings.task.name, vars(settings.task.options), labels_after(session, stage, model))
    return {
        "model": model,
        "task": task,
        "folder": folder,
        "seed": settings.general.seed,
        "threads": threads_per_process(),
        "emit": session.emit,
    }
