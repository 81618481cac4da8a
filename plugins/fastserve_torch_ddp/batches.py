"""Which rows are in which batch: a pure function of the seed and the epoch, so that any step can be resumed."""

from __future__ import annotations

import random
from collections.abc import Sequence

POOL = 50
"""Batches are cut from pools of this many batches' rows, sorted by length: little padding, much chance."""


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of each batch of an epoch; every row is in exactly one, rows of a batch are about as long."""
    draw = random.Random(f"{seed}-{epoch}")
    order = list(range(len(lengths)))
    draw.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), POOL * batch_size):
        pool = sorted(order[start : start + POOL * batch_size], key=lengths.__getitem__)
        batches += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
    draw.shuffle(batches)
    return batches


def share(batch: Sequence[int], part: int, parts: int) -> list[int]:
    """One part of a batch; a batch with fewer rows than parts repeats some, as every rank must take a step."""
    enough = [batch[place % len(batch)] for place in range(max(len(batch), parts))]
    return enough[part::parts]
