"""The number formats that a training computes in, and the settings of its process."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastserve_core.processes import read_processor
from fastserve_torch_ddp.ops.attention import use_attention
from fastserve_torch_ddp.ops.dropout import DropoutMaskPool, use_pooled_dropout


@dataclass(frozen=True)
class Precision:
    """The types of weights and matrix products.

    Attributes:
        weight_dtype: The type of the weights that the model computes with; their masters are fp32.
        autocast_dtype: The type of autocast products if the weights stay in fp32, else ``None``.
    """

    weight_dtype: torch.dtype
    autocast_dtype: torch.dtype | None

    @property
    def matmul_dtype(self) -> torch.dtype:
        """The type of matrix products."""
        return self.autocast_dtype or self.weight_dtype

    def context(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the autocast context of a forward pass, or a null context."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(device.type, self.autocast_dtype)


def choose_precision(options: Mapping[str, Any], device: torch.device) -> Precision:
    """Choose the types for the option ``precision``.

    On a CPU bf16 weights avoid the copies that autocast makes; adapters and GPUs keep fp32 weights.

    Args:
        options: The trainer's options.
        device: The device of this rank.
    """
    requested = options["precision"]
    if requested == "fp32" or (requested == "auto" and not has_bf16(device)):
        return Precision(torch.float32, None)
    if device.type == "cpu" and options["method"] == "full" and options["sharding"] != "fsdp":
        return Precision(torch.bfloat16, None)
    return Precision(torch.float32, torch.bfloat16)


def has_bf16(device: torch.device) -> bool:
    """Return whether the hardware computes bf16 products, rather than emulating them."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(check()) and read_processor().has_bf16_units


def cast_frozen(model: nn.Module, precision: Precision) -> None:
    """Cast the frozen fp32 weights to the type of the products once, rather than at every step."""
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(precision.matmul_dtype)


def configure_process(options: Mapping[str, Any], threads: int) -> None:
    """Set the number of threads of this process, and deterministic algorithms if the options ask for them."""
    torch.set_num_threads(threads)
    if options["deterministic"]:
        torch.use_deterministic_algorithms(True)


def apply_cpu_optimizations(model: nn.Module, seed: int, device: torch.device) -> None:
    """Replace dropout and attention by faster implementations if the device is a CPU.

    Attention computes the same results; dropout has the same distribution.

    Args:
        model: The model, changed in place.
        seed: The seed of the dropout masks.
        device: The device of the model.
    """
    if device.type == "cpu":
        masks = DropoutMaskPool(seed)
        use_pooled_dropout(model, masks)
        use_attention(model, masks)
