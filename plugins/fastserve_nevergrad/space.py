"""The search space: from the config's description to Nevergrad's parameters, and back to options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nevergrad as ng

from fastserve_core.errors import ErrorCollector, InvalidOption, did_you_mean
from fastserve_nevergrad.distributions import read_condition, read_range

DEFAULT_SPACE = {
    "lr": {"log": [1e-5, 3e-4]},
    "batch_size": {"choice": [16, 32, 64]},
}
"""What is searched when neither the user nor the trainer says, as far as the trainer has it."""
FEWEST, TRIALS_PER_OPTION = 2, 6
"""So many options of the ready-made space at least, and no more than one for so many trials."""


def default_space(
    trainer: Mapping[str, Any], suggested: Mapping[str, Any], fixed: frozenset[str], trials: int
) -> dict[str, Any]:
    """The default space: what the trainer suggests, the most important first, without what the user fixed."""
    known = {
        path: DEFAULT_SPACE[path.rpartition(".")[2]] for path in trainer if path.rpartition(".")[2] in DEFAULT_SPACE
    }
    found = {path: one for path, one in (suggested or known).items() if path not in fixed}
    return dict(list(found.items())[: max(FEWEST, trials // TRIALS_PER_OPTION)])


class Space:
    """Every fault of the space is said at once.

    Raises ``InvalidOption``: a path that is not known, an empty or inverted range, the log of zero.
    """

    def __init__(self, space: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        faults, parameters = ErrorCollector(), {}
        self.conditions: dict[str, dict[str, list[Any]]] = {}
        for path, description in space.items():
            with faults.collect():
                self.conditions[path] = read_condition(path, description)
                for one in (path, *self.conditions[path]):
                    if one not in known:
                        raise InvalidOption(f"tune.nevergrad.space: no option '{one}'{did_you_mean(one, known)}")
                parameters[path] = _parameter(path, description)
        faults.raise_if_any()
        self.known = {
            path: known[path] for path in (*space, *(one for each in self.conditions.values() for one in each))
        }
        self.first = {path: known[path] for path in space}
        self.parameters = ng.p.Dict(**parameters)

    def options(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial is given: plain numbers, without the options whose condition does not hold."""
        found = plain(values)
        now = {**self.known, **found}
        return {
            path: value
            for path, value in found.items()
            if all(now[other] in allowed for other, allowed in self.conditions[path].items())
        }

    def candidate(self, options: Mapping[str, Any]) -> Any:
        """A trial's options as Nevergrad has them, those that are left out as they are; ``None`` outside the space."""
        try:
            return self.parameters.spawn_child(new_value={**self.first, **options})
        except (ValueError, TypeError):  # a number out of its range, or null
            return None


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nevergrad's numpy scalars as Python's, rounded to what can be read back exactly."""
    return {
        path: float(f"{value:.6g}") if isinstance(value, float) else int(value) if hasattr(value, "item") else value
        for path, value in values.items()
    }


def _parameter(path: str, description: Any) -> Any:
    kind, values = read_range(path, description)
    if kind == "choice":
        return ng.p.Choice(values)
    low, high = values
    if kind == "log":
        return ng.p.Log(lower=low, upper=high)
    scalar = ng.p.Scalar(lower=low, upper=high)
    return scalar.set_integer_casting() if kind == "int" else scalar
