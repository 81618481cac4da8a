"""The exponential moving average of the weights over the steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class ExponentialMovingAverage:
    """Averages of named tensors (Polyak & Juditsky 1992), often better than the weights of the last step.

    ``live`` are the tensors that the optimizer changes in place: trainable parameters, or the fp32 weights that
    low-precision parameters are copied from. The decay grows from 0.1 as (1 + step) / (10 + step) up to the
    given one, so that the weights of the start do not linger.
    """

    def __init__(self, live: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self._live = {name: one.detach() for name, one in live.items()}
        self._kept = {name: one.clone() for name, one in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step; steps count from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._kept.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def swap_in(self) -> Iterator[None]:
        """The live tensors hold the averages in the block: for evaluation and saving, not for a step."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name; the tensors themselves, not copies."""
        return dict(self._kept)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy averages in; raises ``KeyError`` for a tensor that has none."""
        for name, one in self._kept.items():
            one.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        # one tensor at a time: the model is never in memory a third time
        for name, live in self._live.items():
            kept = self._kept[name]
            spare = live.clone()
            live.copy_(kept)
            kept.copy_(spare)
