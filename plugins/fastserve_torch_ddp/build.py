"""Assembly of a training: the model with its fine-tuning method, its number formats and its parallel strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_core.artifacts import read_json
from fastserve_core.tasks import Encoded, Task
from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.job import TrainingJob
from fastserve_torch_ddp.ops.precision import Precision, apply_cpu_optimizations, cast_frozen
from fastserve_torch_ddp.optim.param_groups import build_parameter_groups
from fastserve_torch_ddp.peft_methods.adapters import FinetuningMethod, attach_method
from fastserve_torch_ddp.strategies.parallel import DataParallel, ParallelStrategy, choose_strategy, compile_module


def build_method(
    job: TrainingJob, task: Task, device: torch.device, total: int, rows: Sequence[Encoded] = ()
) -> FinetuningMethod:
    """Build the model in fp32 and apply the fine-tuning method; every call with the same rows returns the same weights.

    Args:
        job: The training job.
        task: The task, which builds the model.
        device: The device of the model.
        total: The number of optimizer steps.
        rows: The training rows, by which the task chooses first weights; without, they are not of use.
    """
    torch.manual_seed(job.seed)
    model = task.build(Path(job.model)).float().to(device)
    if rows:
        task.initialize(model, rows)
    return attach_method(model, job.options, total)


def read_stored_dtypes(job: TrainingJob, task: Task) -> dict[str, torch.dtype]:
    """Return the types of the parameters that the model's folder stores in 16 bits, in which they are saved again."""
    if read_json(Path(job.model, "config.json")).get("dtype", "float32") == "float32":
        return {}
    parameters = task.build(Path(job.model)).named_parameters()
    return {name: parameter.dtype for name, parameter in parameters if parameter.dtype != torch.float32}


def build_strategy(
    model: nn.Module, options: Mapping[str, Any], precision: Precision, seed: int, device: torch.device
) -> ParallelStrategy:
    """Apply the number formats to the model, and create the strategy with its optimizer.

    Args:
        model: The model with its fine-tuning method, changed in place.
        options: The trainer's options.
        precision: The types to compute in.
        seed: The seed of the dropout masks.
        device: The device of this rank.

    Raises:
        StageError: ``compile`` is set and there is no C++ compiler.
    """
    apply_cpu_optimizations(model, seed, device)
    if options["activation_checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    mode = choose_strategy(options, device, collectives.get_world_size())
    groups = build_parameter_groups(model, options)
    if mode == "fsdp":
        from fastserve_torch_ddp.strategies.fsdp import FullySharded

        return FullySharded(model, groups, precision)
    cast_frozen(model, precision)
    if mode == "replicated":
        strategy: ParallelStrategy = DataParallel(model, groups, precision.weight_dtype, options)
    else:
        # the moving average reads dense weights after every step
        lazy_embeddings = device.type == "cpu" and options["ema_decay"] is None
        strategy = ParallelStrategy(model, groups, precision.weight_dtype, mode, lazy_embeddings)
    if options["compile"]:
        strategy.module = compile_module(strategy.module)
    return strategy


class BatchCollator:
    """Collates examples into the tensors that a model accepts, on its device.

    Args:
        task: The task, which pads and stacks.
        model: The model.
        device: The device of the tensors.
    """

    def __init__(self, task: Task, model: nn.Module, device: torch.device) -> None:
        self.task, self.device = task, device
        self.accepted = set(signature(model.forward).parameters)

    def __call__(self, rows: Sequence[Encoded], targets: bool) -> dict[str, Tensor]:
        """Return the inputs of a batch by name.

        Args:
            rows: The examples.
            targets: Whether to include the targets.
        """
        arrays = self.task.collate(rows, targets=targets).items()
        accepted = self.accepted.union(self.task.target_names)
        return {name: torch.from_numpy(array).to(self.device) for name, array in arrays if name in accepted}

    def without_targets(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs among the tensors of a labelled batch."""
        return {name: tensor for name, tensor in tensors.items() if name not in self.task.target_names}
