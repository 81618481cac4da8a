"""Rows on the disk: written once and read where they lie, so that a split may be larger than memory."""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, overload

from fastserve_core.errors import wrap_write_errors
from fastserve_core.tasks.task import Row

SUFFIX, OFFSETS = ".jsonl", ".offsets"
OFFSET: Literal["Q"] = "Q"
"""Where a line begins, in bytes, as an unsigned 64 bit number."""


def encode_row(row: Row) -> bytes:
    """A row as one line of JSON; equal rows give equal lines.

    Raises ``UnicodeEncodeError`` for a text that no UTF-8 file can hold.
    """
    return json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n"


class RowWriter:
    """Writes the lines of one split, and beside them where each begins.

    Use it as a context manager: the file of offsets is written at the end. Raises ``StoreError`` when the
    disk is full.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.path = folder / f"{split}{SUFFIX}"
        self._offsets = array(OFFSET, [0])
        with wrap_write_errors(self.path.name, folder):
            self._file = self.path.open("wb")

    def add(self, line: bytes) -> None:
        with wrap_write_errors(self.path.name, self.path.parent):
            self._file.write(line)
        self._offsets.append(self._offsets[-1] + len(line))

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with wrap_write_errors(self.path.name, self.path.parent):
            self._file.close()
            with self.path.with_suffix(OFFSETS).open("wb") as file:
                self._offsets.tofile(file)


class Rows(Sequence[Row]):
    """The rows of one split, each parsed when it is asked for; a slice is a list.

    Both files are mapped into memory rather than read, so that the system may drop their pages at any time.
    """

    def __init__(self, folder: Path, split: str) -> None:
        path = folder / f"{split}{SUFFIX}"
        self._lines = _mapped(path)
        self._offsets = memoryview(_mapped(path.with_suffix(OFFSETS))).cast(OFFSET)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        found = range(len(self))[place]
        return [self._row(number) for number in found] if isinstance(found, range) else self._row(found)

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, range(len(self)))

    def line(self, number: int) -> bytes:
        """One row as it was written."""
        return self._lines[self._offsets[number] : self._offsets[number + 1]]

    def size(self, number: int) -> int:
        """Bytes of one row as it was written."""
        return self._offsets[number + 1] - self._offsets[number]

    def _row(self, number: int) -> Row:
        row: Row = json.loads(self.line(number))
        return row


def _mapped(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        # nothing cannot be mapped
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
