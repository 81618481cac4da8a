"""The learning rate over the steps, as a part of its highest value."""

from __future__ import annotations

import math


def lr_factor(schedule: str, step: int, total: int, warmup_ratio: float) -> float:
    """In (0, 1] for ``step`` from 0 to ``total`` - 1.

    It goes up linearly over the first ``warmup_ratio`` of the steps. After that ``linear`` goes down to 0 in a
    straight line, ``cosine`` along half a cosine (Loshchilov & Hutter 2017), and ``constant`` stays.
    """
    warmup = max(1, round(total * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, total - warmup)
    return (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1 - done
