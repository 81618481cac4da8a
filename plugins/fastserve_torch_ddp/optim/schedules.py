"""Learning-rate schedules."""

from __future__ import annotations

import math


def lr_factor(schedule: str, step: int, total: int, warmup_ratio: float) -> float:
    """Return the learning rate of a step as a fraction of the highest one.

    The rate grows linearly over the warm-up. After that ``linear`` decreases to 0 in a straight line, ``cosine`` along
    half a cosine (Loshchilov & Hutter 2017), and ``constant`` does not change.

    Args:
        schedule: ``linear``, ``cosine`` or ``constant``.
        step: The step, from 0 to ``total`` - 1.
        total: The number of steps.
        warmup_ratio: The length of the warm-up as a fraction of ``total``.

    Returns:
        A factor in (0, 1].
    """
    warmup = max(1, round(total * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)
    return (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
