"""Nevergrad's optimizer: what it proposes, and what it is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nevergrad as ng

from fastserve_core.errors import InvalidOption, did_you_mean
from fastserve_nevergrad.space import Space

REPEATS = 20
"""How often an optimizer may propose what was already tried, before it is tried again after all."""
FAILURE_LOSS = 1e6
"""The loss that a failed trial is told as; the optimizer must not be told nan or nothing."""
Losses = Sequence[float]
SMALL_BUDGET, FOR_FEW, FOR_MANY = 60, "OnePlusOne", "TwoPointsDE"
"""``optimizer`` null: from this many trials on the other one, which begins with thirty drawn at random."""


class NevergradAdapter:
    """Proposes options for the trials of a space."""

    def __init__(
        self, space: Space, name: str | None, trials: int, seed: int, warn: Callable[[str], None], objectives: int = 1
    ) -> None:
        self.name = name or (FOR_FEW if trials < SMALL_BUDGET else FOR_MANY)
        registry = ng.optimizers.registry
        if self.name not in registry:
            names = [one for one in registry if len(one) < 24]
            close = did_you_mean(self.name, names).partition(" (known")[0]
            raise InvalidOption(f"tune.nevergrad.optimizer: nevergrad has no '{self.name}'{close}")
        space.parameters.random_state.seed(seed % 2**32)
        self._space, self._warn, self._warned, self._objectives = space, warn, False, objectives
        self._optimizer = registry[self.name](space.parameters, budget=trials, num_workers=1)

    def ask(self, tried: Mapping[str, Losses | None], waiting: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
        """The next candidate and its options; what was tried before is told again, and asked anew.

        ``tried`` are the losses by ``key_of`` the options, ``waiting`` those that are being tried.
        """
        for _ in range(REPEATS):
            candidate = self._proposed()
            options = self._space.options(candidate.value)
            if (key := key_of(options)) in tried:
                self.tell(candidate, tried[key])
            elif key not in waiting:
                break
        return candidate, options

    def _proposed(self) -> Any:
        """What the optimizer proposes; where it breaks, what its parameters draw at random."""
        try:
            return self._optimizer.ask()
        except Exception as error:  # seen: NGOpt's meta-model of one number with numpy 2.4, for 1000 trials
            if not self._warned:
                self._warn(f"nevergrad's {self.name} failed ({error}); trials are drawn at random")
            self._warned = True
            return self._space.parameters.sample()

    def tell(self, candidate: Any, losses: Losses | None) -> None:
        """One loss, or several of which Nevergrad makes the hypervolume; ``None`` for a failure."""
        if losses is None:
            losses = [FAILURE_LOSS] * self._objectives
        self._optimizer.tell(candidate, losses[0] if len(losses) == 1 else losses)


def key_of(options: Mapping[str, Any]) -> str:
    return json.dumps(options)
