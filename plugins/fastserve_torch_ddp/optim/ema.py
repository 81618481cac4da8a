"""The exponential moving average of the weights over the steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class ExponentialMovingAverage:
    """Averages of named tensors (Polyak & Juditsky 1992), often better than the weights of the last step.

    The decay grows from 0.1 as (1 + step) / (10 + step) up to the given maximum, so that the initial weights lose
    their influence early. ``torch.optim.swa_utils`` averages whole modules and copies the first weights instead.

    Args:
        live: The tensors that the optimizer changes in place: trainable parameters, or the fp32 master weights that
            low-precision parameters are copied from.
        decay: The maximum decay, in [0, 1).
    """

    def __init__(self, live: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self._live = {name: tensor.detach() for name, tensor in live.items()}
        self._averages = {name: tensor.clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the current weights in the averages.

        Args:
            step: The number of the optimizer step just taken, from 0.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._averages.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def swap_in(self) -> Iterator[None]:
        """Exchange the live tensors and the averages in the block: for evaluation and saving, not for a step."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by name, without copying them."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy saved averages.

        Raises:
            KeyError: A tensor has no saved average.
        """
        for name, average in self._averages.items():
            average.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        # one tensor at a time, so that memory never holds the model a third time
        for name, live in self._live.items():
            average = self._averages[name]
            buffer = live.clone()
            live.copy_(average)
            average.copy_(buffer)
