"""Dropout that costs one multiplication on a CPU: its masks are windows of a pool of precomputed factors.

torch draws a random number for each element, which took a sixth of a training step of MiniLM. Here a pool of
independent Bernoulli factors, 0 or 1 / (1 - p), is drawn once; each mask is a window of it at a random offset.
Two masks share factors only in the overlap of their windows, and then at other positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MIN_POOL_SIZE = 1 << 22
"""Factors of the smallest pool."""
MIN_POOL_RATIO = 4
"""A pool is at least this many times as large as the largest mask taken from it."""


class DropoutMaskPool:
    """Precomputed factors by probability and type; the same torch seed gives the same masks.

    Args:
        seed: The seed of the factors.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.pools: dict[tuple[float, torch.dtype], Tensor] = {}

    def take(self, shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
        """Return a mask; its offset in the pool is drawn from torch's default generator.

        Args:
            shape: The shape of the mask.
            p: The probability of a 0.
            dtype: The type of the mask.
        """
        size = shape.numel()
        pool = self.pools.get((p, dtype))
        if pool is None or len(pool) < MIN_POOL_RATIO * size:
            pool = self.pools[p, dtype] = self._draw(max(MIN_POOL_SIZE, MIN_POOL_RATIO * size), p, dtype)
        start = int(torch.randint(len(pool) - size, ()))
        return pool[start : start + size].view(shape)

    def _draw(self, size: int, p: float, dtype: torch.dtype) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        uniform = torch.rand(size, generator=generator)
        return (uniform >= p).to(dtype).mul_(1 / (1 - p))


class PooledDropout(nn.Dropout):
    """``nn.Dropout`` with masks from a pool."""

    masks: DropoutMaskPool

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Apply dropout in training, and return the input unchanged otherwise."""
        if not self.training or self.p == 0:
            return input
        return input * self.masks.take(input.shape, self.p, input.dtype)


def use_pooled_dropout(model: nn.Module, masks: DropoutMaskPool) -> None:
    """Replace the masks of every ``nn.Dropout`` of the model by those of the pool, in place."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = PooledDropout
            module.masks = masks  # type: ignore[assignment]
