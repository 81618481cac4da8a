"""Rows of streams that are read once: a pipe, standard input, a file that grows."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from fastserve_core.artifacts import expand_user
from fastserve_core.config import SEPARATORS
from fastserve_core.data import RawRecord, Report
from fastserve_core.errors import DataError, UnknownNameError
from fastserve_data import text_files
from fastserve_data.encodings import BYTE_ORDER_MARKS, choose_encoding
from fastserve_data.headers import name_columns
from fastserve_data.json_files import parse_lines, parse_object
from fastserve_data.paths import COMPRESSED_SUFFIXES, data_suffix
from fastserve_data.separated import find_layout, make_record, parse_separated
from fastserve_data.tail import Tail, WaitingInput, WaitingStream
from fastserve_data.text_files import iterate_lines, parse_texts

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

FORMATS = ("csv", "tsv", "jsonl", "txt")
SUFFIX_FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "txt"}
STANDARD_INPUT = "standard input"
START_BYTES = 65_536
READ_ERRORS = (EOFError, zlib.error, lzma.LZMAError, OSError)
OPENERS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def read_stream(
    stream: BinaryIO, name: str, row_format: str | None, options: DataOptions, report: Report
) -> tuple[str, Iterator[RawRecord]]:
    """Read the rows of a stream, which may be compressed; see ``Files.read_stream``."""
    _check_format(row_format)
    try:
        buffered = _decompress(_buffer(stream))
        encoding = choose_encoding(buffered.peek(START_BYTES)[:START_BYTES], options.encoding, name, report)
    except READ_ERRORS as error:
        raise DataError(f"{name} cannot be read: {error}") from error
    lines = _iterate_text(buffered, encoding, name)
    first = next(lines, "")
    found = row_format or _guess_format(first, name, report)
    lines = chain([first] if first else [], lines)
    if found == "jsonl":
        return found, parse_lines(lines, name)
    if found == "txt":
        return found, parse_texts(lines, name)
    return found, parse_separated(lines, name, options, report, f".{found}")


def _iterate_text(stream: io.BufferedReader, encoding: str, name: str) -> Iterator[str]:
    number = 0
    try:
        with io.TextIOWrapper(stream, encoding, newline="") as text:
            for number, line in enumerate(iterate_lines(text, name), 1):  # noqa: B007 - for the message below
                yield line
    except UnicodeError as error:
        raise DataError(
            f"{name}, after line {number}: the text is not {encoding} ({error}): data.encoding=NAME names its encoding"
        ) from error
    except READ_ERRORS as error:
        raise DataError(f"{name}, after line {number}, cannot be read: {error}") from error


def follow_stream(
    given: str, row_format: str | None, options: DataOptions, report: Report, stop: Callable[[], bool]
) -> tuple[str, Iterator[RawRecord]]:
    """Read rows as their lines are written; see ``Files.follow``."""
    _check_format(row_format)
    if given != "-":
        path = expand_user(given).absolute()
        found = row_format or _check_followed(path)
        return found, _follow_file(path, found, options, report, stop)
    source = WaitingInput(0, stop)
    lines = _decode_lines(source, STANDARD_INPUT, options, report)
    first = next(lines, None)
    if first is None:
        return row_format or "jsonl", iter(())
    found = row_format or _guess_format(next(_texts(iter([first]), STANDARD_INPUT)), STANDARD_INPUT, report)
    return found, _parse_lines(chain([first], lines), STANDARD_INPUT, found, options, report)


def _follow_file(
    path: Path, row_format: str, options: DataOptions, report: Report, stop: Callable[[], bool]
) -> Iterator[RawRecord]:
    while not stop():
        try:
            tail = Tail(path, stop)
        except OSError as error:
            raise DataError(f"--input: {path} cannot be read: {error.strerror or error}") from error
        lines = _decode_lines(tail, str(path), options, report)
        if (first := next(lines, None)) is not None:
            yield from _parse_lines(chain([first], lines), str(path), row_format, options, report)
        if tail.change:
            report(f"{path} was {tail.change}: it is read from its start")


def _check_format(row_format: str | None) -> None:
    if row_format not in (None, *FORMATS):
        raise UnknownNameError("format", str(row_format), FORMATS)


def _check_followed(path: Path) -> str:
    """Return the format of a file that can be followed."""
    if not path.exists():
        raise DataError(f"--input: the file {path} does not exist")
    suffix = data_suffix(path)
    if suffix not in SUFFIX_FORMATS or path.suffix.lower() in COMPRESSED_SUFFIXES:
        supported = ", ".join(SUFFIX_FORMATS)
        raise DataError(f"--follow: {path.name} cannot be read line by line; supported: {supported}, or --format")
    return SUFFIX_FORMATS[suffix]


def _buffer(stream: BinaryIO) -> io.BufferedReader:
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, stream))


def _decompress(stream: io.BufferedReader) -> io.BufferedReader:
    start = stream.peek(8)
    for magic, opener in OPENERS.items():
        if start.startswith(magic):
            return io.BufferedReader(opener(stream))
    return stream


def _guess_format(first: str, name: str, report: Report) -> str:
    """Return the format of a first line: an object, or a header."""
    start = first.removeprefix("\ufeff").lstrip()
    if start.startswith("["):
        raise DataError(f"{name} begins as a JSON array: write it to a file that ends in .json, or one object a line")
    if start.startswith("{"):
        found = "jsonl"
    else:
        found = (
            "tsv" if "\t" in first and not any(one in first for one in SEPARATORS.values() if one != "\t") else "csv"
        )
    report(f"{name} is read as {found} (--format {found}; txt: one text a line)")
    return found


# -- line by line ------------------------------------------------------------------------------------


Line = tuple[int, str | UnicodeError]


def _decode_lines(source: WaitingStream, name: str, options: DataOptions, report: Report) -> Iterator[Line]:
    """Yield the lines that are not blank with their numbers; a line that is not text as the error."""
    encoding = "utf-8" if options.encoding == "auto" else options.encoding
    with io.BufferedReader(source) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(text_files.MAX_LINE_CHARACTERS), b""), 1):
            if len(line) == text_files.MAX_LINE_CHARACTERS:
                raise DataError(f"{name}:{number}: the line is longer than {len(line) // 1_000_000} MB")
            if not line.endswith(b"\n") and not source.is_complete:
                report(f"{name}:{number}: the line was not complete, and is left out")
                return
            if number == 1:
                _check_bytes(line, name)
            try:
                text = line.decode(encoding).removeprefix("\ufeff")
            except UnicodeError as error:
                yield number, error
                continue
            if text.strip():
                yield number, text.rstrip("\r\n")


def _check_bytes(start: bytes, name: str) -> None:
    marked = next((found for mark, found in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")
    if marked != "utf-8" or any(start.startswith(magic) for magic in OPENERS):
        kind = marked if marked != "utf-8" else "compressed"
        raise DataError(f"{name} is {kind}, and --follow reads lines of plain bytes: pipe it through a converter")


def _parse_lines(
    lines: Iterator[Line], name: str, row_format: str, options: DataOptions, report: Report
) -> Iterator[RawRecord]:
    """Parse each line when it is there, so that a line that cannot be read is one bad row."""
    parse = _LineParser(lines, name, row_format, options, report) if row_format in ("csv", "tsv") else parse_object
    for number, line in lines:
        where = f"{name}:{number}"
        if isinstance(line, UnicodeError):
            yield RawRecord(where, None, _describe(line))
        else:
            yield RawRecord(where, {"text": line.strip()}) if row_format == "txt" else parse(line, where)


class _LineParser:
    """Parses one row a line; it is made with the lines up to the header."""

    def __init__(self, lines: Iterator[Line], name: str, row_format: str, options: DataOptions, report: Report) -> None:
        layout, first = find_layout(_texts(lines, name), name, options, report, f".{row_format}")
        self._dialect = layout.dialect
        self._header = name_columns(next(csv.reader([first], **self._dialect)), name)

    def __call__(self, line: str, where: str) -> RawRecord:
        try:
            return make_record(where, self._header, next(csv.reader([line], strict=True, **self._dialect)))
        except csv.Error as error:
            hint = "--follow reads a row a line; data.quoting=none reads quotes as text"
            return RawRecord(where, None, f"its quotes do not match: {error} ({hint})")


def _texts(lines: Iterator[Line], name: str) -> Iterator[str]:
    for number, line in lines:
        if isinstance(line, UnicodeError):
            raise DataError(f"{name}:{number}: {_describe(line)}")
        yield line


def _describe(error: UnicodeError) -> str:
    place = f"byte {error.start + 1} of the line" if isinstance(error, UnicodeDecodeError) else "the line"
    return f"{place} is not text: data.encoding=NAME names the encoding"
