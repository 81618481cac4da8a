"""Allocation of pruning over the layers: the least important units overall, with a minimum per layer."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

Scores = Sequence[Sequence[float]]


def allocate(
    scores: Scores, share: float, floors: Sequence[int], block: int = 1, uniform: bool = False
) -> list[list[int]]:
    """Return the indices of the units to keep in each layer, in ascending order.

    Args:
        scores: Importance of each unit, by layer.
        share: Fraction of all units to remove. The result is within half a block of it if the minimums allow it.
        floors: Minimum number of units to keep, by layer.
        block: Each layer keeps a multiple of this number unless it loses nothing.
        uniform: Keep the same number in each layer.
    """
    if share == 0:
        return [list(range(len(layer))) for layer in scores]
    minimums = [min(len(layer), -(-floor // block) * block) for layer, floor in zip(scores, floors, strict=True)]
    counts = (
        _allocate_uniform(scores, share, max(minimums), block)
        if uniform
        else _allocate_global(scores, share, minimums, block)
    )
    return [sorted(_rank(layer)[:count]) for layer, count in zip(scores, counts, strict=True)]


def _rank(layer: Sequence[float]) -> list[int]:
    """Return the indices by descending importance; ties go to the lower index."""
    return sorted(range(len(layer)), key=lambda index: (-layer[index], index))


def _allocate_uniform(scores: Scores, share: float, minimum: int, block: int) -> list[int]:
    target = (1 - share) * fmean(len(layer) for layer in scores)
    count = max(minimum, round(target / block) * block)
    return [min(count, *(len(layer) for layer in scores))] * len(scores)


def _allocate_global(scores: Scores, share: float, counts: list[int], block: int) -> list[int]:
    """Return the number of units to keep in each layer: the minimums, then the best blocks of all layers."""
    total = sum(len(layer) for layer in scores)
    missing = total - round(share * total) - sum(counts)
    counts = list(counts)
    for _, _, layer, size in sorted(_list_blocks(scores, counts, block)):
        if missing < size / 2:
            break
        counts[layer] += size
        missing -= size
    return counts


def _list_blocks(scores: Scores, counts: Sequence[int], block: int) -> list[tuple[float, int, int, int]]:
    """Return (negative value, start, layer, size) of each block above its layer's minimum."""
    blocks = []
    for index, layer in enumerate(scores):
        values = sorted(layer, reverse=True)
        value = float("inf")
        for start in range(counts[index], len(values), block):
            part = values[start : start + block]
            value = min(value, fmean(part))  # so that rounding never ranks a later block above an earlier one
            blocks.append((-value, start, index, len(part)))
    return blocks
