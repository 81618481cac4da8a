"""Nevergrad's ask-and-tell optimizer for the trials of a study."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nevergrad as ng

from fastserve_core.errors import OptionError, did_you_mean
from fastserve_nevergrad.space import Space

MAX_REPEATS = 20
"""How often an optimizer may propose a finished trial in a row, before that trial is run again."""
FAILURE_LOSS = 1e6
"""The loss of a failed trial; the optimizer accepts neither nan nor ``None``."""
Losses = Sequence[float]
SMALL_BUDGET, SMALL_BUDGET_OPTIMIZER, LARGE_BUDGET_OPTIMIZER = 60, "OnePlusOne", "TwoPointsDE"
"""The default optimizers; that for large budgets begins with thirty random trials."""
MAX_NAME_CHARS = 24
"""Longer names of Nevergrad's registry are not suggested."""


class NevergradAdapter:
    """Proposes options for the trials of a space.

    Args:
        space: The search space.
        name: The optimizer's name in Nevergrad's registry, or ``None`` for the default.
        trials: The number of trials.
        seed: The seed of the proposals.
        warn: Receives warnings.
        objectives: The number of losses of a trial.

    Raises:
        OptionError: Nevergrad has no such optimizer.
    """

    def __init__(
        self, space: Space, name: str | None, trials: int, seed: int, warn: Callable[[str], None], objectives: int = 1
    ) -> None:
        self.name = name or (SMALL_BUDGET_OPTIMIZER if trials < SMALL_BUDGET else LARGE_BUDGET_OPTIMIZER)
        registry = ng.optimizers.registry
        if self.name not in registry:
            names = [known for known in registry if len(known) < MAX_NAME_CHARS]
            close = did_you_mean(self.name, names).partition(" (known")[0]
            raise OptionError(f"tune.nevergrad.optimizer: nevergrad has no '{self.name}'{close}")
        space.parameters.random_state.seed(seed % 2**32)
        self._space, self._warn, self._has_warned, self._objectives = space, warn, False, objectives
        self._optimizer = registry[self.name](space.parameters, budget=trials, num_workers=1)

    def ask(self, finished: Mapping[str, Losses | None], running: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
        """Propose a new trial; the losses of a finished one are reported to the optimizer, which proposes another.

        Args:
            finished: The losses of finished trials by ``serialize_options`` of their options.
            running: ``serialize_options`` of the options of running trials.

        Returns:
            Nevergrad's candidate and its options.
        """
        for _ in range(MAX_REPEATS):
            candidate = self._propose()
            options = self._space.options(candidate.value)
            if (key := serialize_options(options)) in finished:
                self.tell(candidate, finished[key])
            elif key not in running:
                break
        return candidate, options

    def _propose(self) -> Any:
        """Return the optimizer's candidate, or a random one if the optimizer raises an exception."""
        try:
            return self._optimizer.ask()
        except Exception as error:  # seen: NGOpt's meta-model of one number with numpy 2.4, for 1000 trials
            if not self._has_warned:
                self._warn(f"nevergrad's {self.name} failed ({error}); trials are drawn at random")
            self._has_warned = True
            return self._space.parameters.sample()

    def tell(self, candidate: Any, losses: Losses | None) -> None:
        """Report the losses of a trial to the optimizer.

        Args:
            candidate: Nevergrad's candidate.
            losses: One loss, or several, of which Nevergrad computes the hypervolume; ``None`` for a failure.
        """
        if losses is None:
            losses = [FAILURE_LOSS] * self._objectives
        self._optimizer.tell(candidate, losses[0] if len(losses) == 1 else losses)


def serialize_options(options: Mapping[str, Any]) -> str:
    """Return the options as JSON, which identifies equal trials."""
    return json.dumps(options)
