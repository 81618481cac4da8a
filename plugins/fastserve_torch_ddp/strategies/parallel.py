"""Replicated strategies: one rank, sharded optimizer, local SGD, or DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastserve_core.errors import StageError
from fastserve_torch_ddp.optim.optimizer import Optimizer

POWERSGD_RANK, POWERSGD_START = 4, 10


class ParallelStrategy:
    """One rank, a sharded optimizer, or local SGD: the model runs unwrapped, and the optimizer communicates.

    Args:
        model: The model to train; its parameters are replaced by views of the optimizer's buffer.
        groups: The parameter groups of ``param_groups.build_parameter_groups``.
        weight_dtype: The type of the weights that the model computes with.
        mode: ``single``, ``sharded``, ``replicated`` or ``local_sgd``, see ``Optimizer``.
        lazy_embeddings: Whether large embedding tables are updated row by row.

    Attributes:
        module: The module to call.
        optimizer: The optimizer of its parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Mapping[str, Any]],
        weight_dtype: torch.dtype,
        mode: str,
        lazy_embeddings: bool,
    ) -> None:
        self.module, self.mode = model, mode
        self.optimizer = Optimizer(model, groups, weight_dtype, mode, lazy_embeddings)

    def microbatch(self, last: bool) -> AbstractContextManager[Any]:
        """Return a context manager for the forward and backward pass of one accumulated microbatch.

        Args:
            last: Whether it is the last microbatch of the optimizer step.
        """
        return nullcontext()


class DataParallel(ParallelStrategy):
    """DistributedDataParallel: gradients are averaged in buckets during the backward pass.

    Args:
        model: The model to train.
        groups: The parameter groups of ``param_groups.build_parameter_groups``.
        weight_dtype: The type of the weights that the model computes with.
        options: The trainer's options, for gradient accumulation and gradient compression.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Mapping[str, Any]],
        weight_dtype: torch.dtype,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(model, groups, weight_dtype, "replicated", lazy_embeddings=False)
        device = next(model.parameters()).device
        self.ddp = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            static_graph=options["gradient_accumulation_steps"] == 1,
        )
        self.module = self.ddp
        compress_gradients(self.ddp, options["gradient_compression"])

    def microbatch(self, last: bool) -> AbstractContextManager[Any]:
        """Return a context manager in which gradients are exchanged for the last microbatch only."""
        context: AbstractContextManager[Any] = nullcontext() if last else self.ddp.no_sync()
        return context


def choose_strategy(options: Mapping[str, Any], device: torch.device, world: int) -> str:
    """Choose how the ranks share a training.

    With ``sharding=auto`` CPU ranks shard the optimizer, which costs less than to repeat its work on each rank, and
    GPUs use DDP, which overlaps communication and the backward pass. PowerSGD and adapters need DDP.

    Args:
        options: The trainer's options.
        device: The device of this rank.
        world: The number of ranks.

    Returns:
        ``single``, ``local_sgd``, ``sharded``, ``replicated`` or ``fsdp``.
    """
    if options["sharding"] == "fsdp":
        return "fsdp"
    if world == 1:
        return "single"
    if options["local_sgd_steps"] > 1:
        return "local_sgd"
    if options["sharding"] == "zero":
        return "sharded"
    needs_ddp = options["gradient_compression"] != "none" or options["method"] != "full"
    return "sharded" if options["sharding"] == "auto" and device.type == "cpu" and not needs_ddp else "replicated"


def compress_gradients(ddp: DistributedDataParallel, kind: str) -> None:
    """Register a communication hook that sends the gradients in fewer bytes.

    Args:
        ddp: The wrapped model.
        kind: ``none``, ``bf16``, ``fp16`` or ``powersgd`` (Vogels et al. 2019).
    """
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
    from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

    if kind == "powersgd":
        rank = {"matrix_approximation_rank": POWERSGD_RANK, "start_powerSGD_iter": POWERSGD_START}
        ddp.register_comm_hook(PowerSGDState(process_group=None, **rank), powerSGD_hook)  # type: ignore[arg-type]
    elif kind == "fp16":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif kind == "bf16":
        # a lambda has no annotations, which torch would compare with its own
        ddp.register_comm_hook(None, lambda state, bucket: _bf16_hook(bucket))


def _bf16_hook(bucket: Any) -> Any:
    """Average a bucket in bf16; torch's own hook refuses CPU tensors."""
    buffer: Tensor = bucket.buffer()
    compressed = buffer.to(torch.bfloat16).div_(dist.get_world_size())
    future = dist.all_reduce(compressed, async_op=True).get_future()

    def decompress(reduced: torch.futures.Future[Any]) -> Tensor:
        value = reduced.value()
        buffer.copy_(value[0] if isinstance(value, list) else value)
        return buffer

    return future.then(decompress)


def compile_module(module: nn.Module) -> nn.Module:
    """Wrap a module with ``torch.compile``.

    Raises:
        StageError: No C++ compiler is on the PATH.
    """
    import shutil

    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise StageError("train.torch_ddp.compile=true needs a C++ compiler (g++ or clang++), and none is on the PATH")
    compiled: nn.Module = torch.compile(module, dynamic=True)  # type: ignore[assignment]
    return compiled
