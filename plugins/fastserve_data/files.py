"""Data source of CSV, TSV, JSONL, Parquet and plain text files; each record has its position."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import hash_file, stable_hash
from fastserve_core.data import SPLITS, RawRecord
from fastserve_core.errors import DataError, MissingPackageError, did_you_mean

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

MAX_NEARBY_FILES = 20
"""Maximum number of files that are searched for a similar name."""
MAX_FIELD_CHARACTERS = 10_000_000
MAX_LINE_BYTES = 100_000_000
"""Maximum length of a line; without it, a file without line ends is read into memory as one row."""
BATCH_ROWS, BUFFER_BYTES = 1000, 1_000_000
"""Parquet files are read in small batches, because a row group may be larger than memory."""


class Files:
    """Data source of ``data.train``, ``data.validation`` and ``data.test``; missing splits are cut from train."""

    def fingerprint(self, options: DataOptions, downloads: Path) -> str:
        """Return a hash of the files' contents.

        Args:
            options: Options of the data with the paths.
            downloads: Folder of downloads, unused here.

        Raises:
            DataError: A file is missing, empty or of an unsupported type.
        """
        return stable_hash({split: hash_file(path) for split, path in _get_paths(options).items()})

    def read(self, options: DataOptions, downloads: Path) -> Mapping[str, Iterator[RawRecord]]:
        """Return the records of each split with a file.

        Args:
            options: Options of the data with the paths.
            downloads: Folder of downloads, unused here.

        Raises:
            DataError: A file is missing, empty or of an unsupported type.
        """
        return {split: READERS[path.suffix.lower()](path) for split, path in _get_paths(options).items()}

    def records(self, path: Path, option: str) -> Iterator[RawRecord]:
        """Return the records of a file.

        Args:
            path: Path of the file.
            option: Option that the path comes from, for error messages.

        Raises:
            DataError: The file is missing, empty or of an unsupported type.
        """
        _check_file(path, option)
        return READERS[path.suffix.lower()](path)


def _get_paths(options: DataOptions) -> dict[str, Path]:
    given = {split: getattr(options, split) for split in SPLITS}
    if not given["train"]:
        raise DataError("no training data: set data.train=FILE, or choose a demo set, for example data=movie_reviews")
    paths = {split: Path(path).expanduser().absolute() for split, path in given.items() if path}
    for split, path in paths.items():
        _check_file(path, f"data.{split}")
    return paths


def _check_file(path: Path, option: str) -> None:
    if not path.is_file():
        near = [file.name for file in path.parent.glob("[!.]*") if file.suffix.lower() in READERS]
        raise DataError(f"{option}: the file {path} does not exist{did_you_mean(path.name, near[:MAX_NEARBY_FILES])}")
    if path.suffix.lower() not in READERS:
        raise DataError(f"{option}: unsupported file type {path.name}; supported: {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise DataError(f"{option}: the file {path} is empty")


def _iter_lines(path: Path) -> Iterator[str]:
    """Yield the file's lines as text.

    Raises:
        DataError: A line is too long or not UTF-8; the message has its number.
    """
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            if len(line) == MAX_LINE_BYTES:
                raise DataError(f"{path}:{number}: the line is longer than {MAX_LINE_BYTES // 1_000_000} MB")
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}:{number}: byte {error.start + 1} of the line is not UTF-8: save the file as UTF-8, "
                    "for example with 'iconv -f latin1 -t utf-8'"
                ) from error
            yield text.removeprefix(codecs.BOM_UTF8.decode("utf-8")) if number == 1 else text


def _read_csv(delimiter: str) -> Callable[[Path], Iterator[RawRecord]]:
    def read(path: Path) -> Iterator[RawRecord]:
        csv.field_size_limit(MAX_FIELD_CHARACTERS)
        reader = csv.reader(_iter_lines(path), delimiter=delimiter, strict=True)
        try:
            header = next(reader)
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if not row:
                    continue
                if len(row) != len(header):
                    yield RawRecord(where, None, f"{len(row)} fields, but the header has {len(header)}")
                else:
                    yield RawRecord(where, dict(zip(header, row, strict=True)))
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: {error}") from error

    return read


def _read_jsonl(path: Path) -> Iterator[RawRecord]:
    for number, line in enumerate(_iter_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            yield RawRecord(where, None, f"not valid JSON: {error}")
            continue
        yield RawRecord(where, value) if isinstance(value, dict) else RawRecord(where, None, "not a JSON object")


def _read_parquet(path: Path) -> Iterator[RawRecord]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingPackageError("Parquet files need pyarrow: pip install 'fastserve-core[data]'") from error
    try:
        number = 0
        with parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                values: dict[str, Any]
                for values in batch.to_pylist():
                    number += 1
                    yield RawRecord(f"{path} row {number}", values)
    except ArrowException as error:
        raise DataError(f"{path} is not a valid Parquet file: {error}") from error


def _read_txt(path: Path) -> Iterator[RawRecord]:
    for number, line in enumerate(_iter_lines(path), 1):
        if line.strip():
            yield RawRecord(f"{path}:{number}", {"text": line.strip()})


READERS: dict[str, Callable[[Path], Iterator[RawRecord]]] = {
    ".csv": _read_csv(","),
    ".tsv": _read_csv("\t"),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
}
