"""Putting a training together: the model with its method, its number formats, and the ranks' way of sharing."""

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
from fastserve_torch_ddp.ops import precision
from fastserve_torch_ddp.optim.param_groups import parameter_groups
from fastserve_torch_ddp.peft_methods.adapters import FinetuningMethod, attach
from fastserve_torch_ddp.strategies.parallel import DataParallel, ParallelStrategy, choose_strategy, compiled


def build(job: TrainingJob, task: Task, device: torch.device, total: int) -> FinetuningMethod:
    """The model in fp32 with what the method adds; the same again whenever it is called."""
    torch.manual_seed(job.seed)
    return attach(task.build(Path(job.model)).float().to(device), job.options, total)


def stored_formats(job: TrainingJob, task: Task) -> dict[str, torch.dtype]:
    """The parameters that the folder has in 16 bits, and in which: trained, they are stored so again."""
    if read_json(Path(job.model, "config.json")).get("dtype", "float32") == "float32":
        return {}
    built = task.build(Path(job.model))
    return {name: one.dtype for name, one in built.named_parameters() if one.dtype != torch.float32}


def build_strategy(
    model: nn.Module, options: Mapping[str, Any], chosen: precision.Precision, seed: int, device: torch.device
) -> ParallelStrategy:
    """The model in its number formats, and the optimizer, as the ranks share them."""
    precision.apply_cpu_optimizations(model, seed, device)
    if options["activation_checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    way, groups = choose_strategy(options, device, collectives.ranks()[1]), parameter_groups(model, options)
    if way == "fsdp":
        from fastserve_torch_ddp.strategies.fsdp import FullySharded

        return FullySharded(model, groups, chosen)
    precision.cast_frozen(model, chosen)
    if way == "replicated":
        together: ParallelStrategy = DataParallel(model, groups, chosen.low, options)
    else:
        by_rows = device.type == "cpu" and options["ema_decay"] is None
        together = ParallelStrategy(model, groups, chosen.low, way, by_rows)
    if options["compile"]:
        together.module = compiled(together.module)
    return together


class BatchCollator:
    """Examples as the tensors that a model takes, on its device."""

    def __init__(self, task: Task, model: nn.Module, device: torch.device) -> None:
        self.task, self.device = task, device
        self.takes = set(signature(model.forward).parameters)

    def __call__(self, rows: Sequence[Encoded], targets: bool) -> dict[str, Tensor]:
        arrays = self.task.collate(rows, targets=targets)
        return {name: torch.from_numpy(one).to(self.device) for name, one in arrays.items() if name in self.takes}
