"""Flat files of numbers, each as narrow as its numbers allow, read through memory maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fastserve_core.errors import wrap_write_errors

Array = np.ndarray[Any, Any]

BLOCK = 1_000_000
"""Numbers that are copied at once when a file turns out too narrow."""
INTEGER = tuple(np.dtype(name) for name in ("<u1", "<i1", "<u2", "<i2", "<i4", "<i8"))
OFFSET, FLOAT = np.dtype("<i8"), np.dtype("<f8")


class ColumnWriter:
    """Numbers that are appended to one file; while all are the same, as in most masks, there is none.

    A number that the file's type cannot hold has the file written anew in a wider one. Raises ``StoreError``
    when the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.low: Any = 0
        self.high: Any = 0
        self.real = False
        self.type: np.dtype[Any] | None = None

    def add(self, numbers: Array) -> None:
        if not len(numbers):
            return
        before, same = self.count, self.low
        self.count += len(numbers)
        self.low = min(numbers.min(), self.low) if before else numbers.min()
        self.high = max(numbers.max(), self.high) if before else numbers.max()
        self.real |= numbers.dtype.kind == "f"
        if self.type is None and self.low == self.high:
            return
        with wrap_write_errors(self.path.name, self.path.parent):
            self._widen(self._wanted(), before, same)
            with self.path.open("ab") as file:
                file.write(numbers.astype(self.type).data)

    def record(self) -> dict[str, Any]:
        """What ``mapped`` needs to find the numbers, as a JSON object."""
        value = np.asarray(self.low).item() if self.type is None else None
        return {"count": self.count, "type": None if self.type is None else self.type.str, "value": value}

    def _wanted(self) -> np.dtype[Any]:
        if self.real:
            return FLOAT
        return next(one for one in INTEGER if np.iinfo(one).min <= self.low and self.high <= np.iinfo(one).max)

    def _widen(self, wanted: np.dtype[Any], count: int, same: Any) -> None:
        """Write the ``count`` numbers so far anew; where there was no file yet, all of them were ``same``."""
        if wanted is self.type:
            return
        old = np.broadcast_to(np.asarray(same), count) if self.type is None else np.memmap(self.path, self.type, "r")
        wider = self.path.with_name(f"{self.path.name}-wider")
        with wider.open("wb") as file:
            for begin in range(0, count, BLOCK):
                file.write(old[begin : begin + BLOCK].astype(wanted).data)
        wider.replace(self.path)
        self.type = wanted


def flat(rows: Sequence[Sequence[Any]]) -> Array:
    """The numbers of all rows in one array."""
    return np.asarray(list(chain.from_iterable(rows)))


def write_offsets(path: Path, lengths: Sequence[int]) -> dict[str, Any]:
    """Where each row begins, and where the last one ends; returns the record for ``mapped``."""
    offsets = np.zeros(len(lengths) + 1, dtype=OFFSET)
    np.cumsum(np.asarray(lengths, dtype=OFFSET), out=offsets[1:])
    with wrap_write_errors(path.name, path.parent):
        path.write_bytes(offsets.data)
    return {"count": len(offsets), "type": OFFSET.str, "value": None}


def mapped(path: Path, record: Mapping[str, Any]) -> Array:
    """The numbers of a file, read-only; where all are the same, one number that is seen at every place."""
    if record["type"] is None:
        return np.broadcast_to(np.asarray(record["value"]), record["count"])
    # a plain view: with numpy's own class for maps, every slice costs several times more
    return np.asarray(np.memmap(path, record["type"], "r", shape=(record["count"],)))
