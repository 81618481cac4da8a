"""The search space: from its description in the config to Nevergrad's parameters, and back to options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nevergrad as ng

from fastserve_core.errors import ErrorCollector, OptionError, did_you_mean
from fastserve_nevergrad.distributions import read_condition, read_range

DEFAULT_SPACE = {
    "lr": {"log": [1e-5, 3e-4]},
    "batch_size": {"choice": [16, 32, 64]},
}
"""The space if neither the user nor the trainer provides one, limited to the trainer's options."""
MIN_OPTIONS, TRIALS_PER_OPTION = 2, 6
"""The default space has at least so many options, and otherwise one for so many trials."""


def default_space(
    trainer: Mapping[str, Any], suggested: Mapping[str, Any], fixed: frozenset[str], trials: int
) -> dict[str, Any]:
    """Return the most important ranges that the trainer suggests.

    Args:
        trainer: The trainer's options by path.
        suggested: The ranges that the trainer suggests by path, the most important first.
        fixed: The paths of the options that the user has set.
        trials: The number of trials.
    """
    known = {
        path: DEFAULT_SPACE[path.rpartition(".")[2]] for path in trainer if path.rpartition(".")[2] in DEFAULT_SPACE
    }
    space = {path: description for path, description in (suggested or known).items() if path not in fixed}
    return dict(list(space.items())[: max(MIN_OPTIONS, trials // TRIALS_PER_OPTION)])


class Space:
    """A search space as Nevergrad's parameters.

    Args:
        space: The description of each range by option path.
        known: The current values of all options by path.

    Attributes:
        parameters: Nevergrad's parameters.
        initial: The current values of the options of the space.

    Raises:
        OptionError: A path is unknown, or a range is invalid; all errors are collected.
    """

    def __init__(self, space: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        faults, parameters = ErrorCollector(), {}
        self.conditions: dict[str, dict[str, list[Any]]] = {}
        for path, description in space.items():
            with faults.collect():
                self.conditions[path] = read_condition(path, description)
                for option in (path, *self.conditions[path]):
                    if option not in known:
                        raise OptionError(f"tune.nevergrad.space: no option '{option}'{did_you_mean(option, known)}")
                parameters[path] = _create_parameter(path, description)
        faults.raise_if_any()
        conditional = (option for condition in self.conditions.values() for option in condition)
        self.known = {path: known[path] for path in (*space, *conditional)}
        self.initial = {path: known[path] for path in space}
        self.parameters = ng.p.Dict(**parameters)

    def options(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a trial: Python values, without those whose condition does not hold.

        Args:
            values: The values of Nevergrad's candidate.
        """
        options = to_plain_values(values)
        current = {**self.known, **options}
        return {
            path: value
            for path, value in options.items()
            if all(current[other] in allowed for other, allowed in self.conditions[path].items())
        }

    def candidate(self, options: Mapping[str, Any]) -> Any:
        """Return Nevergrad's candidate for a trial's options, or ``None`` if they are outside of the space."""
        try:
            return self.parameters.spawn_child(new_value={**self.initial, **options})
        except (ValueError, TypeError):  # a number out of its range, or null
            return None


def to_plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert numpy scalars to Python's, with floats rounded to six digits so that JSON restores them exactly."""
    return {
        path: float(f"{value:.6g}") if isinstance(value, float) else int(value) if hasattr(value, "item") else value
        for path, value in values.items()
    }


def _create_parameter(path: str, description: Any) -> Any:
    kind, values = read_range(path, description)
    if kind == "choice":
        return ng.p.Choice(values)
    low, high = values
    if kind == "log":
        return ng.p.Log(lower=low, upper=high)
    scalar = ng.p.Scalar(lower=low, upper=high)
    return scalar.set_integer_casting() if kind == "int" else scalar
