"""What a training learns from besides the labels: a loss that another package brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastserve_core.entry_points import load_entry_point
from fastserve_core.errors import InvalidOption
from fastserve_core.pipeline import LOSS_GROUP
from fastserve_torch_ddp.job import TrainingJob
from fastserve_torch_ddp.ops.precision import Precision
from fastserve_torch_ddp.optim.losses import Loss


class AuxiliaryLossFunction(Protocol):
    """A provider's loss, of one rank."""

    asks: Mapping[str, Any]
    """What the model is called with besides its inputs: ``output_hidden_states`` and the like."""

    state: Mapping[str, Tensor]
    """What a resumed training needs of it besides the model's weights: floating tensors that it changes in place, on
    each rank for itself, and that are averaged before the validation split is looked at. It may be left out."""

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Any, counted: Tensor, hard: Tensor) -> Tensor:
        """The loss in place of ``hard``, the labels' own; both are sums over the logits' places that count."""


def load_auxiliary_loss(
    job: TrainingJob, labels: Loss | None, model: nn.Module, numbers: Precision, device: torch.device
) -> AuxiliaryLossFunction | None:
    """The lesson's loss, made beside the model that learns; ``None`` where there is none."""
    if job.lesson is None:
        return None
    if labels is None:
        raise InvalidOption("a lesson needs a task whose loss is the labels' cross-entropy, which pretraining is not")
    kind = load_entry_point(LOSS_GROUP, job.lesson["loss"])
    made: AuxiliaryLossFunction = kind(job.lesson["options"], model, numbers.autocast or numbers.low, device)
    return made
