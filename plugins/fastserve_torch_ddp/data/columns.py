"""Flat files of numbers in the narrowest type that holds them, read through memory maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fastserve_core.errors import wrap_write_errors

Array = np.ndarray[Any, Any]

COPY_ELEMENTS = 1_000_000
"""Numbers that are copied at once when a file is rewritten in a wider type."""
INTEGERS = tuple(np.dtype(name) for name in ("<u1", "<i1", "<u2", "<i2", "<i4", "<i8"))
OFFSET, FLOAT = np.dtype("<i8"), np.dtype("<f8")


class ColumnWriter:
    """Appends numbers to one file; while all are equal, as in most masks, there is no file.

    If a number does not fit the file's type, the file is rewritten in a wider one.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.minimum: Any = 0
        self.maximum: Any = 0
        self.is_float = False
        self.dtype: np.dtype[Any] | None = None

    def add(self, values: Array) -> None:
        """Append numbers.

        Args:
            values: Of shape (n,).

        Raises:
            StoreError: The disk is full.
        """
        if not len(values):
            return
        previous_count, constant = self.count, self.minimum
        self.count += len(values)
        # numpy's functions keep NaN, the target of a row without a number
        self.minimum = np.minimum(values.min(), self.minimum) if previous_count else values.min()
        self.maximum = np.maximum(values.max(), self.maximum) if previous_count else values.max()
        self.is_float |= values.dtype.kind == "f"
        if self.dtype is None and self.minimum == self.maximum:
            return
        with wrap_write_errors(self.path.name, self.path.parent):
            self._widen(self._narrowest_dtype(), previous_count, constant)
            with self.path.open("ab") as file:
                file.write(values.astype(self.dtype).data)

    def describe(self) -> dict[str, Any]:
        """Return the JSON record that ``map_column`` needs to read the numbers."""
        value = np.asarray(self.minimum).item() if self.dtype is None else None
        return {"count": self.count, "type": None if self.dtype is None else self.dtype.str, "value": value}

    def _narrowest_dtype(self) -> np.dtype[Any]:
        if self.is_float:
            return FLOAT
        return next(
            dtype for dtype in INTEGERS if np.iinfo(dtype).min <= self.minimum and self.maximum <= np.iinfo(dtype).max
        )

    def _widen(self, dtype: np.dtype[Any], count: int, constant: Any) -> None:
        """Rewrite the first ``count`` numbers; if there is no file yet, all of them equal ``constant``."""
        if dtype is self.dtype:
            return
        if self.dtype is None:
            old = np.broadcast_to(np.asarray(constant), count)
        else:
            old = np.memmap(self.path, self.dtype, "r")
        wider = self.path.with_name(f"{self.path.name}-wider")
        with wider.open("wb") as file:
            for begin in range(0, count, COPY_ELEMENTS):
                file.write(old[begin : begin + COPY_ELEMENTS].astype(dtype).data)
        wider.replace(self.path)
        self.dtype = dtype


def concatenate(rows: Sequence[Sequence[Any]]) -> Array:
    """Return the numbers of all rows in one array."""
    return np.asarray(list(chain.from_iterable(rows)))


def write_offsets(path: Path, lengths: Sequence[int]) -> dict[str, Any]:
    """Write the offset of each row and the end of the last one.

    Args:
        path: The file.
        lengths: The length of each row.

    Returns:
        The record for ``map_column``.

    Raises:
        StoreError: The disk is full.
    """
    offsets = np.zeros(len(lengths) + 1, dtype=OFFSET)
    np.cumsum(np.asarray(lengths, dtype=OFFSET), out=offsets[1:])
    with wrap_write_errors(path.name, path.parent):
        path.write_bytes(offsets.data)
    return {"count": len(offsets), "type": OFFSET.str, "value": None}


def map_column(path: Path, record: Mapping[str, Any]) -> Array:
    """Map the numbers of a file into memory, read-only.

    Args:
        path: The file, which does not exist if all numbers are equal.
        record: The record of ``ColumnWriter.describe`` or ``write_offsets``.

    Returns:
        An array of shape (count,).
    """
    if record["type"] is None:
        return np.broadcast_to(np.asarray(record["value"]), record["count"])
    # a plain array: slices of numpy's memmap class take several times longer
    return np.asarray(np.memmap(path, record["type"], "r", shape=(record["count"],)))
