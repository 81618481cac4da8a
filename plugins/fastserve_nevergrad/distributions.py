"""The ranges and conditions of a search space as the config describes them, checked before a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve_core.errors import OptionError, did_you_mean

KINDS = ("log", "linear", "int", "choice")
CONDITION_KEY = "when"


def read_range(path: str, description: Any) -> tuple[str, list[Any]]:
    """Parse the range of one option.

    Args:
        path: The option's path.
        description: ``[low, high]`` for a linear range, or a mapping of a kind to its values.

    Returns:
        The kind, one of ``KINDS``, and its values: the lower and upper bound, or the choices.

    Raises:
        OptionError: The kind is unknown, the range is empty, or a log range is not positive.
    """
    option = f"tune.nevergrad.space.{path}"
    ranges = {"linear": description}
    if isinstance(description, Mapping):
        ranges = {kind: values for kind, values in description.items() if kind != CONDITION_KEY}
        if len(ranges) != 1:
            raise OptionError(f"{option} needs one of {', '.join(KINDS)}, not {', '.join(ranges) or 'nothing'}")
    (kind, values) = next(iter(ranges.items()))
    if kind not in KINDS:
        raise OptionError(f"{option}: unknown kind of range '{kind}'{did_you_mean(str(kind), KINDS)}")
    if kind == "choice":
        if not isinstance(values, list) or len(values) < 2:
            raise OptionError(f"{option}: a choice needs at least two values, not {values}")
        return kind, values
    if not isinstance(values, list) or len(values) != 2 or not all(isinstance(end, (int, float)) for end in values):
        raise OptionError(f"{option}: a range is [low, high], not {values}")
    low, high = values
    if low >= high:
        raise OptionError(f"{option}: the range [{low}, {high}] is empty: low must be below high")
    if kind == "log" and low <= 0:
        raise OptionError(f"{option}: a log range must be above 0, not [{low}, {high}]")
    return str(kind), values


def read_condition(path: str, description: Any) -> dict[str, list[Any]]:
    """Parse the condition of one option.

    Args:
        path: The option's path.
        description: The description of its range, with the condition in the key ``when``.

    Returns:
        The values of other options for which this one is searched; empty if it is always searched.

    Raises:
        OptionError: The condition is not a mapping.
    """
    condition = description.get(CONDITION_KEY, {}) if isinstance(description, Mapping) else {}
    if not isinstance(condition, Mapping):
        raise OptionError(f"tune.nevergrad.space.{path}: when is {{option: value}}, not {condition}")
    return {str(other): value if isinstance(value, list) else [value] for other, value in condition.items()}
