"""The auxiliary loss: a loss from another package in addition to, or in place of, that of the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastserve_core.entry_points import load_entry_point
from fastserve_core.errors import OptionError
from fastserve_core.pipeline import LOSS_GROUP
from fastserve_core.tasks import Task
from fastserve_torch_ddp.job import TrainingJob
from fastserve_torch_ddp.ops.precision import Precision


class AuxiliaryLossFunction(Protocol):
    """The loss that a provider creates on each rank."""

    forward_kwargs: Mapping[str, Any]
    """Keyword arguments of the model's call besides its inputs, such as ``output_hidden_states``."""

    state: Mapping[str, Tensor]
    """Floating-point tensors that a resumed training needs besides the model's weights. The loss changes them in
    place, on each rank separately; they are averaged before each evaluation. The attribute is optional."""

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Any, counted: Tensor, hard: Tensor) -> Tensor:
        """Compute the loss that replaces the labels' own.

        Args:
            inputs: The model's inputs.
            outputs: The model's outputs.
            counted: Whether each position of the logits counts, of the labels' shape.
            hard: The labels' loss, summed over the counted positions.

        Returns:
            The loss, summed over the counted positions.
        """


def load_auxiliary_loss(
    job: TrainingJob, task: Task, model: nn.Module, precision: Precision, device: torch.device
) -> AuxiliaryLossFunction | None:
    """Create the auxiliary loss that the job requests.

    Args:
        job: The training job.
        task: The task, which names the outputs to compare.
        model: The model to train, before it is wrapped.
        precision: The types to compute in.
        device: The device of this rank.

    Returns:
        The loss, or ``None`` if the job requests none.

    Raises:
        OptionError: The task names no outputs that a teacher could be compared on.
    """
    if job.auxiliary_loss is None:
        return None
    if not task.distillation_targets:
        raise OptionError(f"the task {task.name} names no outputs that a teacher could be compared on")
    provider = load_entry_point(LOSS_GROUP, job.auxiliary_loss["loss"])
    loss: AuxiliaryLossFunction = provider(
        job.auxiliary_loss["options"],
        model,
        precision.matmul_dtype,
        device,
        task.distillation_targets,
        task.find_uncompressed(model),
    )
    return loss
