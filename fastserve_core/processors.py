"""What the processor can do that decides in which numbers a model is computed."""

from __future__ import annotations


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 by instructions of its own; elsewhere it is emulated, slower than fp32."""
    import torch

    check = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(check())
