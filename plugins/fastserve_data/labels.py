"""Names of labels that a data set stores as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def name_label(value: Any, names: Sequence[str]) -> Any:
    """Return the name of a label, or of each label in a list; ``None`` for the -1 of a row without a label."""
    if isinstance(value, list):
        return [name_label(element, names) for element in value]
    if isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return value
