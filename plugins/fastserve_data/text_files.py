"""Opens text files: compressed or not, in any encoding, with any line ends."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from fastserve_core.data import RawRecord
from fastserve_core.errors import DataError
from fastserve_data.encodings import choose_encoding, describe_undecodable

START_BYTES = 65_536
MAX_LINE_CHARACTERS = 100_000_000
"""Maximum length of a line; without it, a file without line ends is read into memory as one row."""
OPENERS: dict[bytes, Callable[[Path], object]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""How files with these first bytes are opened, whatever their names are."""
OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive or an Excel file: unpack it, or name it .xlsx",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it",
    b"PAR1": "a Parquet file: name it .parquet",
    b"ARROW1": "an Arrow file: name it .arrow",
    b"%PDF": "a PDF file",
}


@contextmanager
def open_text(path: Path, encoding: str, newline: str | None, report: Callable[[str], None]) -> Iterator[TextIO]:
    """Open a text file; errors of reading it in this context are raised as ``DataError``.

    Args:
        path: The file.
        encoding: The option ``data.encoding``.
        newline: ``None`` to read every line end as a newline, empty to keep it.
        report: Called with a warning if the option contradicts the file.

    Raises:
        DataError: The file is not text, damaged, or not in its encoding; the message has the line.
    """
    try:
        with _open_binary(path) as file:
            start = file.read(START_BYTES)
        chosen = choose_encoding(start, encoding, str(path), report)
        with _open_binary(path) as file:
            yield io.TextIOWrapper(file, chosen, newline=newline)
    except UnicodeError as error:
        with _open_binary(path) as file:
            raise DataError(describe_undecodable(file, chosen, str(path))) from error
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def iterate_lines(file: TextIO, path: Path | str) -> Iterator[str]:
    """Yield the lines of an open file, without a byte order mark.

    Raises:
        DataError: A line is too long.
    """
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_CHARACTERS), ""), 1):
        if len(line) == MAX_LINE_CHARACTERS:
            raise DataError(f"{path}:{number}: the line is longer than {MAX_LINE_CHARACTERS // 1_000_000} MB")
        yield line.removeprefix("\ufeff") if number == 1 else line


def parse_texts(lines: Iterator[str], path: str) -> Iterator[RawRecord]:
    """Parse lines with one text each; ``path`` is their source, for messages."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield RawRecord(f"{path}:{number}", {"text": line.strip()})


def _open_binary(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        magic = file.read(8)
    for start, description in OTHER_FORMATS.items():
        if magic.startswith(start):
            raise DataError(f"{path} is {description}")
    for start, opener in OPENERS.items():
        if magic.startswith(start):
            return cast(BinaryIO, opener(path))
    return path.open("rb")
