"""A training that a compressor asks for: the chosen trainer, another model, and a lesson besides the labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from fastserve_core.data.unlabelled import UnlabelledFiles, add_unlabelled
from fastserve_core.errors import InvalidPlan
from fastserve_core.plugins.contexts import RetrainRequest, StagedArtifact

if TYPE_CHECKING:
    from fastserve_core.pipeline.context import Pipeline

LOSS_GROUP = "fastserve.losses"
"""What brings the losses of lessons: by name, a class that the trainer makes and calls."""


def make_retrainer(pipeline: Pipeline) -> Callable[[RetrainRequest], StagedArtifact]:
    """``run.retrain``: what the pipeline's trainer makes of a model; the result is a draft, not yet published."""

    def train(asked: RetrainRequest) -> StagedArtifact:
        trainer = next(iter(pipeline.settings.registry.plugins_for("train")), None)
        if trainer is None:
            raise InvalidPlan("there is no trainer to train with: add one, e.g. +plugin=[torch_ddp,…]")
        if asked.lesson is not None and not getattr(trainer.plugin, "takes_lessons", False):
            raise InvalidPlan(f"the trainer '{trainer.name}' learns from labels only; take torch_ddp")
        with pipeline.settings.registry.override_options(trainer, asked.options) as changed:
            run = replace(pipeline.run_for("train", asked.folder, asked.model), lesson=asked.lesson)
            if asked.unlabelled or asked.rows:
                texts = UnlabelledFiles(asked.unlabelled, pipeline.settings.data.columns, asked.rows)
                run = replace(run, source=add_unlabelled(run.data, texts, run.task, pipeline.store))
            draft: StagedArtifact = pipeline.verb(changed, "train", run)
        return draft

    return train
