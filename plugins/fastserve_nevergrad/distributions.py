"""The ranges of a search space as the config describes them, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve_core.errors import InvalidOption, did_you_mean

KINDS = ("log", "linear", "int", "choice")
CONDITION_KEY = "when"


def read_range(path: str, description: Any) -> tuple[str, list[Any]]:
    """Kind and values of one option's range; raises ``InvalidOption``: unknown kind, empty range, the log of zero."""
    where = f"tune.nevergrad.space.{path}"
    kinds = {"linear": description}
    if isinstance(description, Mapping):
        kinds = {kind: values for kind, values in description.items() if kind != CONDITION_KEY}
        if len(kinds) != 1:
            raise InvalidOption(
                f"{where}: one of {', '.join(KINDS)} says the range, not {', '.join(kinds) or 'nothing'}"
            )
    (kind, values) = next(iter(kinds.items()))
    if kind not in KINDS:
        raise InvalidOption(f"{where}: no kind of range '{kind}'{did_you_mean(str(kind), KINDS)}")
    if kind == "choice":
        if not isinstance(values, list) or len(values) < 2:
            raise InvalidOption(f"{where}: a choice needs at least two values, not {values}")
        return kind, values
    if not isinstance(values, list) or len(values) != 2 or not all(isinstance(one, (int, float)) for one in values):
        raise InvalidOption(f"{where}: a range is [low, high], not {values}")
    low, high = values
    if low >= high:
        raise InvalidOption(f"{where}: the range [{low}, {high}] is empty: low must be below high")
    if kind == "log" and low <= 0:
        raise InvalidOption(f"{where}: a log range must be above 0, not [{low}, {high}]")
    return str(kind), values


def read_condition(path: str, description: Any) -> dict[str, list[Any]]:
    """The values of other options with which this one is searched; empty: always. Raises ``InvalidOption``."""
    given = description.get(CONDITION_KEY, {}) if isinstance(description, Mapping) else {}
    if not isinstance(given, Mapping):
        raise InvalidOption(f"tune.nevergrad.space.{path}: when is {{option: value}}, not {given}")
    return {str(other): value if isinstance(value, list) else [value] for other, value in given.items()}
