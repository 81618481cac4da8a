"""Names of columns in the header of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fastserve_core.errors import DataError


def name_columns(header: Sequence[str], path: str) -> list[str]:
    """Return the names of a table's columns; a column without a name is called by its number.

    Args:
        header: The names as they are written.
        path: The file, for error messages.

    Raises:
        DataError: Two columns have one name, so that one would hide the other.
    """
    repeated = [name for name, count in Counter(header).items() if count > 1 and name.strip()]
    if repeated:
        raise DataError(f"{path}: two columns are named '{repeated[0]}': rename or remove one of them")
    return [name if name.strip() else f"column {number}" for number, name in enumerate(header, 1)]
