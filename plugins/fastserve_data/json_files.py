"""Reads JSON: one object a line, an array of objects, or an object that holds such an array."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fastserve_core.data import RawRecord
from fastserve_core.errors import DataError
from fastserve_data import text_files
from fastserve_data.text_files import iterate_lines, open_text

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

CHUNK_CHARACTERS = 1_000_000
LOOK_AHEAD_CHARACTERS = 10_000


class RepeatedNames(dict[str, Any]):
    """An object with two values of one name, of which a dictionary keeps the last."""


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    return values if len(values) == len(pairs) else RepeatedNames(values)


DECODER = json.JSONDecoder(object_pairs_hook=_make_object)


def read_json(path: Path, options: DataOptions, report: Callable[[str], None], suffix: str) -> Iterator[RawRecord]:
    """Read the objects of a JSON file.

    Args:
        path: The file.
        options: The option ``encoding``.
        report: Called with a message if the rows are those of an array within an object.
        suffix: ``.json`` if the file may be one object over several lines.

    Raises:
        DataError: The file is not JSON, or holds no rows.
    """
    with open_text(path, options.encoding, None, report) as file:
        start = file.read(LOOK_AHEAD_CHARACTERS).lstrip("\ufeff \t\n")
        file.seek(0)
        if start.startswith("["):
            yield from _read_array(_ValueStream(file, path), path)
        elif suffix == ".json" and not _begins_with_lines(start):
            yield from _read_values(_ValueStream(file, path), path, report)
        else:
            yield from parse_lines(iterate_lines(file, path), str(path))


def _begins_with_lines(start: str) -> bool:
    """Return whether the first line is a value, and another line follows."""
    first, _, rest = start.partition("\n")
    try:
        DECODER.decode(first)
    except (ValueError, RecursionError):
        return False
    return bool(rest.strip())


def parse_lines(lines: Iterator[str], path: str) -> Iterator[RawRecord]:
    """Parse lines with one object each; ``path`` is their source, for messages."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield parse_object(line, f"{path}:{number}")


def parse_object(line: str, where: str) -> RawRecord:
    """Parse a line with one object."""
    try:
        return _make_record(where, DECODER.decode(line.strip()))
    except ValueError as error:
        return RawRecord(where, None, f"not valid JSON: {error}")
    except RecursionError:
        return RawRecord(where, None, "not valid JSON: its values are nested too deeply")


def _read_array(stream: _ValueStream, path: Path) -> Iterator[RawRecord]:
    stream.peek()
    stream.take()
    if stream.peek() != "]":
        yield _make_record(*stream.read())
    while stream.peek() == ",":
        stream.take()
        yield _make_record(*stream.read())
    if stream.peek() != "]":
        raise DataError(f"{stream.where}: not valid JSON: the array needs a comma or its end here")
    stream.take()
    if stream.peek():
        raise DataError(f"{stream.where}: not valid JSON: something follows the end of the array")


def _read_values(stream: _ValueStream, path: Path, report: Callable[[str], None]) -> Iterator[RawRecord]:
    """Read objects that follow each other, or the rows of a single one."""
    where, value = stream.read()
    if stream.peek() or not isinstance(value, dict):
        yield _make_record(where, value)
        while stream.peek():
            yield _make_record(*stream.read())
        return
    arrays = [name for name, part in value.items() if part and isinstance(part, list) and isinstance(part[0], dict)]
    if len(arrays) == 1:
        report(f"{path}: the rows are those of '{arrays[0]}'")
        for number, row in enumerate(value[arrays[0]], 1):
            yield _make_record(f"{path} row {number}", row)
    elif value and all(isinstance(part, dict) for part in value.values()):
        raise DataError(f"{path} is an object of columns: write one object a row (pandas: orient='records')")
    else:
        yield _make_record(where, value)


def _make_record(where: str, value: Any) -> RawRecord:
    if isinstance(value, RepeatedNames):
        return RawRecord(where, None, "two values of one object have the same name")
    return RawRecord(where, value) if isinstance(value, dict) else RawRecord(where, None, "not a JSON object")


class _ValueStream:
    """The JSON values of a file one after the other, read in chunks.

    Args:
        file: The open file.
        path: The file, for messages.
    """

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path = file, path
        self._buffer, self._position, self._line = file.read(CHUNK_CHARACTERS).removeprefix("\ufeff"), 0, 1

    @property
    def where(self) -> str:
        """File and line of the next token."""
        return f"{self._path}:{self._line}"

    def peek(self) -> str:
        """Return the next character that is not blank; empty at the end of the file."""
        while True:
            while self._position < len(self._buffer):
                if not self._buffer[self._position].isspace():
                    return self._buffer[self._position]
                self.take()
            if not self._fill():
                return ""

    def take(self) -> None:
        """Skip the next character."""
        self._advance(self._position + 1)

    def read(self) -> tuple[str, Any]:
        """Return the place of the next value, and the value.

        Raises:
            DataError: It is not valid JSON.
        """
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                if self._fill():
                    continue  # it may have been cut
                line = self._line + self._buffer.count("\n", self._position, error.pos)
                raise DataError(f"{self._path}:{line}: not valid JSON: {error.msg}") from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{self.where}: not valid JSON: {error}") from error
            if end == len(self._buffer) and self._fill():
                continue  # a number may have been cut
            where = self.where
            self._advance(end)
            return where, value

    def _advance(self, position: int) -> None:
        self._line += self._buffer.count("\n", self._position, position)
        self._position = position

    def _fill(self) -> bool:
        """Read as much again as is left in the buffer; return whether there was more."""
        left = self._buffer[self._position :]
        if len(left) > text_files.MAX_LINE_CHARACTERS:
            raise DataError(f"{self.where}: the value is longer than {text_files.MAX_LINE_CHARACTERS // 1_000_000} MB")
        more = self._file.read(max(CHUNK_CHARACTERS, len(left)))
        self._buffer, self._position = left + more, 0
        return bool(more)
