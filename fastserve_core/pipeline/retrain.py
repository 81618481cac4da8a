"""Trainings that a compressor requests: the run's trainer, another model, and an auxiliary loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastserve_core.data.unlabelled import UnlabelledFiles, add_unlabelled
from fastserve_core.errors import PlanError
from fastserve_core.pipeline.context import make_train_context
from fastserve_core.pipeline.session import Session
from fastserve_core.plugins.requests import RetrainRequest, StagedArtifact

LOSS_GROUP = "fastserve.losses"
"""The group of entry points of auxiliary losses: classes that the trainer instantiates and calls."""


def make_retrainer(session: Session) -> Callable[[RetrainRequest], StagedArtifact]:
    """Return the function behind ``CompressContext.retrain``; its result is not yet published."""

    def retrain(request: RetrainRequest) -> StagedArtifact:
        trainer = session.registry.trainer
        if trainer is None:
            raise PlanError("this compressor needs a trainer: add one, e.g. +plugin=[torch_ddp,…]")
        if request.auxiliary_loss is not None and not trainer.plugin.supports_auxiliary_loss:
            raise PlanError(
                f"the trainer '{trainer.name}' supports no auxiliary losses: choose one that does, e.g. torch_ddp"
            )
        registry, retrainer = session.registry.with_overrides(trainer, request.options)
        retraining = session.with_registry(registry)
        context = make_train_context(retraining, request.folder, request.model)
        context = replace(context, auxiliary_loss=request.auxiliary_loss)
        if request.unlabelled or request.rows:
            texts = UnlabelledFiles(request.unlabelled, session.settings.data, request.rows)
            context = replace(context, data=add_unlabelled(context.data, texts, context.task, session.store))
        staged: StagedArtifact = retraining.call_plugin(retrainer, "train", context)
        return staged

    return retrain
