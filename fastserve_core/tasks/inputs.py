"""Collections of inputs and labels, as callers of the Python interface give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastserve_core.errors import DataError

SINGLE = (str, bytes, Mapping)
"""Types that are one input, although they are collections of something else."""


def list_inputs(inputs: Any) -> Sequence[Any]:
    """Return the inputs of a call; a single text or mapping is one input."""
    return [inputs] if isinstance(inputs, SINGLE) else inputs


def check_list(name: str, values: Any) -> None:
    """Check that training data or labels are a list of several, and not one text or mapping.

    Args:
        name: The argument as the subject of the message, in the plural.
        values: The argument.

    Raises:
        DataError: They are a single value, whose characters or keys would be taken for the elements.
    """
    if isinstance(values, SINGLE):
        kind = type(values).__name__
        raise DataError(f"{name} must be a list with one element for each row, not a single value ({kind})")
