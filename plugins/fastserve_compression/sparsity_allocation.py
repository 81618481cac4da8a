"""What stays: the most important of all layers together, with a floor for each."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

Scores = Sequence[Sequence[float]]


def allocate(
    scores: Scores, share: float, floors: Sequence[int], block: int = 1, uniform: bool = False
) -> list[list[int]]:
    """The numbers of what stays in each layer, in their order, when a share of all is removed.

    ``scores`` are by layer. A layer keeps ``floors`` of it or more, and a multiple of ``block`` unless it loses
    nothing. What stays in all is within half a block of what was asked for, where the floors allow it. ``uniform``
    keeps the same number in each layer.
    """
    if share == 0:
        return [list(range(len(layer))) for layer in scores]
    least = [min(len(layer), -(-floor // block) * block) for layer, floor in zip(scores, floors, strict=True)]
    counts = _uniform(scores, share, max(least), block) if uniform else _global(scores, share, least, block)
    return [sorted(_ranking(layer)[:count]) for layer, count in zip(scores, counts, strict=True)]


def _ranking(layer: Sequence[float]) -> list[int]:
    """The numbers by importance; the lower number first among equals."""
    return sorted(range(len(layer)), key=lambda number: (-layer[number], number))


def _uniform(scores: Scores, share: float, least: int, block: int) -> list[int]:
    wanted = (1 - share) * fmean(len(layer) for layer in scores)
    count = max(least, round(wanted / block) * block)
    return [min(count, *(len(layer) for layer in scores))] * len(scores)


def _global(scores: Scores, share: float, counts: list[int], block: int) -> list[int]:
    """How many stay in each layer: beginning with the least, the best blocks of all layers are added."""
    total = sum(len(layer) for layer in scores)
    missing = total - round(share * total) - sum(counts)
    counts = list(counts)
    for _, _, number, size in sorted(_blocks(scores, counts, block)):
        if missing < size / 2:
            break
        counts[number] += size
        missing -= size
    return counts


def _blocks(scores: Scores, counts: Sequence[int], block: int) -> list[tuple[float, int, int, int]]:
    """The blocks above each layer's least number: its value (negative, to sort by), start, layer and size."""
    found = []
    for number, layer in enumerate(scores):
        values = sorted(layer, reverse=True)
        value = float("inf")
        for start in range(counts[number], len(values), block):
            part = values[start : start + block]
            value = min(value, fmean(part))  # rounding must not put a later block before an earlier one
            found.append((-value, start, number, len(part)))
    return found
