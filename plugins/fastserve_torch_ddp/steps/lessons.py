"""What a training learns from besides the labels: a loss that another package brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastserve_core.entry_points import provide
from fastserve_core.errors import BadOption
from fastserve_core.pipeline.retrain import GROUP
from fastserve_torch_ddp.job import Job
from fastserve_torch_ddp.kernels.numbers import Numbers
from fastserve_torch_ddp.steps.losses import Loss


class LessonLoss(Protocol):
    """A provider's loss, of one rank."""

    asks: Mapping[str, Any]
    """What the model is called with besides its inputs: ``output_hidden_states`` and the like."""

    state: Mapping[str, Tensor]
    """What a resumed training needs of it besides the model's weights: floating tensors that it changes in place, on
    each rank for itself, and that are averaged before the validation split is looked at. It may be left out."""

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Any, counted: Tensor, hard: Tensor) -> Tensor:
        """The loss in place of ``hard``, the labels' own; both are sums over the logits' places that count."""


def take_lesson(
    job: Job, labels: Loss | None, model: nn.Module, numbers: Numbers, device: torch.device
) -> LessonLoss | None:
    """The lesson's loss, made beside the model that learns; ``None`` where there is none."""
    if job.lesson is None:
        return None
    if labels is None:
        raise BadOption("a lesson needs a task whose loss is the labels' cross-entropy, which pretraining is not")
    kind = provide(GROUP, job.lesson["loss"])
    made: LessonLoss = kind(job.lesson["options"], model, numbers.autocast or numbers.low, device)
    return made
