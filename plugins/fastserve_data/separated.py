"""Reads files of separated fields: CSV, TSV, and files with semicolons or bars."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.config import SEPARATORS
from fastserve_core.data import RawRecord
from fastserve_core.errors import DataError
from fastserve_data.headers import name_columns
from fastserve_data.text_files import iterate_lines, open_text

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

MAX_FIELD_CHARACTERS = 10_000_000
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
"""The line before the header by which spreadsheets name the separator."""
QUOTED = re.compile(r'"[^"]*"')


def read_separated(path: Path, options: DataOptions, report: Callable[[str], None], suffix: str) -> Iterator[RawRecord]:
    """Read the rows of a CSV or TSV file.

    Args:
        path: The file.
        options: The options ``separator``, ``quoting`` and ``encoding``.
        report: Called with a message for a separator that was guessed, and for quotes that may be meant otherwise.
        suffix: ``.csv`` or ``.tsv``.

    Raises:
        DataError: The file has no header, two columns of one name, or a quote that is never closed.
    """
    with open_text(path, options.encoding, "", report) as file:
        yield from parse_separated(iterate_lines(file, path), str(path), options, report, suffix)


def parse_separated(
    lines: Iterator[str], path: str, options: DataOptions, report: Callable[[str], None], suffix: str
) -> Iterator[RawRecord]:
    """Parse the lines of a table, as ``read_separated`` does; ``path`` is their source, for messages."""
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    layout, header = find_layout(lines, path, options, report, suffix)
    reader = csv.reader(chain([header], lines), strict=True, **layout.dialect)
    yield from _Table(reader, path, layout).read(report)


@dataclass(frozen=True)
class Layout:
    """How the fields of a table are separated.

    Attributes:
        separator: The character between two fields.
        is_quoted: Whether fields may be in quotes.
        skipped: The number of lines before the header.
    """

    separator: str
    is_quoted: bool
    skipped: int = 0

    @property
    def dialect(self) -> Any:
        """The arguments of a reader of ``csv``."""
        return {"delimiter": self.separator, "quoting": csv.QUOTE_MINIMAL if self.is_quoted else csv.QUOTE_NONE}


def find_layout(
    lines: Iterator[str], path: str, options: DataOptions, report: Callable[[str], None], suffix: str
) -> tuple[Layout, str]:
    """Read the lines up to the header; return how fields are separated, and the header's line.

    Raises:
        DataError: There is no header, or its fields may be separated in several ways.
    """
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise DataError(f"{path} has no header: its first line has to name the columns")
    named = SEPARATOR_LINE.fullmatch(first)
    header = next(lines, "") if named else first
    separator = options.separator
    if separator == "auto":
        own = "\t" if suffix == ".tsv" else ","
        separator = named[1] if named else _guess_separator(header, own, path, report)
    is_quoted = options.quoting == "double" or (
        options.quoting == "auto" and not (suffix == ".tsv" and separator == "\t")
    )
    return Layout(separator, is_quoted, 1 if named else 0), header


def make_record(where: str, header: Sequence[str], row: Sequence[str]) -> RawRecord:
    """Return the record of a row, which has as many fields as the header if it can be used."""
    if len(row) != len(header):
        return RawRecord(where, None, f"{len(row)} fields, but the header has {len(header)}")
    return RawRecord(where, dict(zip(header, row, strict=True)))


class _Table:
    """The rows of one file, with their lines.

    Args:
        reader: The reader, before the header.
        path: The file, for messages.
        layout: How the fields are separated.
    """

    def __init__(self, reader: Iterator[list[str]], path: str, layout: Layout) -> None:
        self._reader, self._path = reader, path
        self._skipped, self._is_quoted = layout.skipped, layout.is_quoted
        self._wrapped = self._in_quotes = 0

    def read(self, report: Callable[[str], None]) -> Iterator[RawRecord]:
        """Yield the rows; report signs of a wrong ``data.quoting`` at the end."""
        header: list[str] | None = None
        for number, row in self._rows():
            if header is None:
                header = name_columns(row, self._path)
            else:
                yield make_record(f"{self._path}:{number}", header, row)
        if self._wrapped:
            report(
                f"{self._path}: {self._wrapped} rows have line ends within quotes (data.quoting=none ends rows there)"
            )
        if self._in_quotes:
            report(
                f"{self._path}: quotes round {self._in_quotes} fields are read as text "
                "(data.quoting=double removes them)"
            )

    def _rows(self) -> Iterator[tuple[int, Sequence[str]]]:
        """Yield each row with the number of its first line."""
        while True:
            start = self._line + 1
            try:
                row = next(self._reader, None)
            except csv.Error as error:
                raise DataError(self._describe(error, start)) from error
            if row is None:
                return
            if row:
                self._wrapped += self._line > start
                if not self._is_quoted:
                    self._in_quotes += sum(len(field) > 1 and field[0] == field[-1] == '"' for field in row)
                yield start, row

    @property
    def _line(self) -> int:
        line: int = self._reader.line_num  # type: ignore[attr-defined]
        return line + self._skipped

    def _describe(self, error: csv.Error, start: int) -> str:
        where = f"{self._path}:{start}: "
        if not self._is_quoted:
            return f"{where}{error}"
        if "field limit" in str(error):
            megabytes = MAX_FIELD_CHARACTERS // 1_000_000
            return f"{where}a field is longer than {megabytes} MB: does a quote lack its end?"
        if "unexpected end" in str(error):
            return f"{where}a quote that this row opens is never closed (data.quoting=none reads quotes as text)"
        return (
            f"{where}the quotes of this row, which ends in line {self._line}, do not match: {error} "
            "(data.quoting=none reads quotes as text)"
        )


def _guess_separator(header: str, own: str, path: str, report: Callable[[str], None]) -> str:
    """Return the separator in the header outside quotes: the one that the suffix names, or the only other."""
    bare = QUOTED.sub("", header)
    found = [separator for separator in SEPARATORS.values() if separator in bare]
    if own in found or not found:
        return own
    names = [name for name, separator in SEPARATORS.items() if separator in found]
    if len(names) > 1:
        choices = " or ".join(f"data.separator={name}" for name in names)
        raise DataError(f"{path}:1: the fields may be separated in several ways: set {choices}")
    report(f"{path}: fields are separated by {found[0]!r} (data.separator={names[0]})")
    return found[0]
