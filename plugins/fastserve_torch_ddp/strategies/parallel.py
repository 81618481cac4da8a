"""How the ranks of a training work together: alone, by shards, as replicas under DDP, or fully sharded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastserve_core.errors import StageFailed
from fastserve_torch_ddp.optim.optimizer import Optimizer

POWERSGD_RANK, POWERSGD_START = 4, 10


class ParallelStrategy:
    """One rank, shards, or local SGD: the model is called as it is, and the optimizer does what is shared."""

    def __init__(
        self, model: nn.Module, groups: Sequence[Mapping[str, Any]], low: torch.dtype, way: str, by_rows: bool
    ) -> None:
        self.module, self.way = model, way
        self.optimizer = Optimizer(model, groups, low, way, by_rows)

    def microbatch(self, last: bool) -> AbstractContextManager[Any]:
        """Round the forward and backward pass of one accumulated part."""
        return nullcontext()


class DataParallel(ParallelStrategy):
    """DistributedDataParallel: gradients are averaged in buckets while the backward pass goes on."""

    def __init__(
        self, model: nn.Module, groups: Sequence[Mapping[str, Any]], low: torch.dtype, options: Mapping[str, Any]
    ) -> None:
        super().__init__(model, groups, low, "replicated", by_rows=False)
        device = next(model.parameters()).device
        self.ddp = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            static_graph=options["gradient_accumulation_steps"] == 1,
        )
        self.module = self.ddp
        compress(self.ddp, options["gradient_compression"])

    def microbatch(self, last: bool) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = nullcontext() if last else self.ddp.no_sync()
        return context


def choose_strategy(options: Mapping[str, Any], device: torch.device, world: int) -> str:
    """``one``, ``alone``, ``sharded``, ``replicated`` or ``fsdp``.

    Left to itself, a CPU's ranks share the optimizer's work by shards, which costs less than repeating it, and
    GPUs use DDP, which hides the exchange behind the backward pass. PowerSGD and adapters need DDP.
    """
    if options["sharding"] == "fsdp":
        return "fsdp"
    if world == 1:
        return "one"
    if options["local_sgd_steps"] > 1:
        return "alone"
    if options["sharding"] == "zero":
        return "sharded"
    wants_ddp = options["gradient_compression"] != "none" or options["method"] != "full"
    return "sharded" if options["sharding"] == "auto" and device.type == "cpu" and not wants_ddp else "replicated"


def compress(ddp: DistributedDataParallel, kind: str) -> None:
    """Have DDP send its gradients in fewer bytes."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
    from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

    if kind == "powersgd":  # Vogels et al. 2019
        rank = {"matrix_approximation_rank": POWERSGD_RANK, "start_powerSGD_iter": POWERSGD_START}
        ddp.register_comm_hook(PowerSGDState(process_group=None, **rank), powerSGD_hook)  # type: ignore[arg-type]
    elif kind == "fp16":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif kind == "bf16":
        # without annotations, which torch would compare with its own
        ddp.register_comm_hook(None, lambda state, bucket: _bf16_hook(bucket))


def _bf16_hook(bucket: Any) -> Any:
    """torch's own hook refuses CPU tensors."""
    whole: Tensor = bucket.buffer()
    sent = whole.to(torch.bfloat16).div_(dist.get_world_size())
    future = dist.all_reduce(sent, async_op=True).get_future()

    def back(done: torch.futures.Future[Any]) -> Tensor:
        value = done.value()
        whole.copy_(value[0] if isinstance(value, list) else value)
        return whole

    return future.then(back)


def compiled(module: nn.Module) -> nn.Module:
    """The module through torch.compile; raises ``StageFailed`` where no C++ compiler is found."""
    import shutil

    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise StageFailed("train.torch_ddp.compile=true needs a C++ compiler (g++ or clang++), and none is on the PATH")
    whole: nn.Module = torch.compile(module, dynamic=True)  # type: ignore[assignment]
    return whole
