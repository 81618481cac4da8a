"""Which number formats a training computes in, and what a CPU computes in another way."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastserve_torch_ddp.ops.attention import use_attention
from fastserve_torch_ddp.ops.dropout import DropoutMaskPool, use_pooled_dropout


@dataclass(frozen=True)
class Precision:
    """``low`` is the type of the weights that are computed with (their masters are fp32); ``autocast`` that of
    products where the weights stay in fp32."""

    low: torch.dtype
    autocast: torch.dtype | None

    def context(self, device: torch.device) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, self.autocast) if self.autocast is not None else nullcontext()


def choose_precision(options: Mapping[str, Any], device: torch.device) -> Precision:
    """On a CPU bf16 weights spare the copies that autocast makes; adapters and GPUs keep fp32 weights."""
    wanted = options["precision"]
    if wanted == "fp32" or (wanted == "auto" and not has_bf16(device)):
        return Precision(torch.float32, None)
    if device.type == "cpu" and options["method"] == "full" and options["sharding"] != "fsdp":
        return Precision(torch.bfloat16, None)
    return Precision(torch.float32, torch.bfloat16)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 products are done by the hardware, rather than emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(check())


def cast_frozen(model: nn.Module, numbers: Precision) -> None:
    """Weights that are not trained need no fp32: cast them once, rather than at every step."""
    wanted = numbers.autocast or numbers.low
    for one in model.parameters():
        if not one.requires_grad and one.dtype == torch.float32:
            one.data = one.data.to(wanted)


def configure_process(options: Mapping[str, Any], threads: int) -> None:
    """The threads that this process may use, and whether it has to be deterministic."""
    torch.set_num_threads(threads)
    if options["deterministic"]:
        torch.use_deterministic_algorithms(True)


def apply_cpu_optimizations(model: nn.Module, seed: int, device: torch.device) -> None:
    """On a CPU: cheaper dropout and attention, with the same distribution and the same results."""
    if device.type == "cpu":
        masks = DropoutMaskPool(seed)
        use_pooled_dropout(model, masks)
        use_attention(model, masks)
