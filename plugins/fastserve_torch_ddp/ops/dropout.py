"""Dropout that costs one multiplication on a CPU: its masks are windows of a pool of ready factors.

torch draws a random number for each element, which took a sixth of a training step of MiniLM. Here a pool of
independent Bernoulli factors, 0 or 1 / (1 - p), is drawn once; each mask is a window of it at a random place.
Two masks share factors only where their windows overlap, and then at other positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

POOL = 1 << 22
SPARE = 4
"""A pool is at least this many times as large as the largest mask taken from it."""


class DropoutMaskPool:
    """Ready factors by probability and type; the same torch seed gives the same masks."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.pools: dict[tuple[float, torch.dtype], Tensor] = {}

    def take(self, shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
        """Factors of that shape; the window's place is drawn from torch's default generator."""
        size = shape.numel()
        pool = self.pools.get((p, dtype))
        if pool is None or len(pool) < SPARE * size:
            pool = self.pools[p, dtype] = self._fill(max(POOL, SPARE * size), p, dtype)
        start = int(torch.randint(len(pool) - size, ()))
        return pool[start : start + size].view(shape)

    def _fill(self, size: int, p: float, dtype: torch.dtype) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.rand(size, generator=generator)
        return (drawn >= p).to(dtype).mul_(1 / (1 - p))


class PooledDropout(nn.Dropout):
    """``nn.Dropout`` with masks from a pool."""

    masks: DropoutMaskPool

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        if not self.training or self.p == 0:
            return input
        return input * self.masks.take(input.shape, self.p, input.dtype)


def use_pooled_dropout(model: nn.Module, masks: DropoutMaskPool) -> None:
    """Turn every ``nn.Dropout`` of the model into one with masks from the pool."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = PooledDropout
            module.masks = masks  # type: ignore[assignment]
