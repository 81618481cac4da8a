"""Rows from CSV, TSV, JSONL and Parquet files, and from the lines of plain text, each with the place it stands at."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import hash_file, stable_hash
from fastserve_core.data import SPLITS, RawRecord
from fastserve_core.errors import InvalidData, MissingPackage, did_you_mean

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

MAX_NEARBY_FILES = 20
"""How many files of the folder are looked at for one of a similar name."""
FIELD_LIMIT = 10_000_000
LINE_LIMIT = 100_000_000
"""Bytes of a line; a longer one is a file without lines, which would be taken into memory as one row."""
BATCH_ROWS, BUFFER_BYTES = 1000, 1_000_000
"""A Parquet file is read in small parts: one of its row groups may be larger than memory."""


class Files:
    """``data.train``, ``data.validation`` and ``data.test`` are paths; a missing split is cut from train."""

    def fingerprint(self, options: DataOptions, downloads: Path) -> str:
        return stable_hash({split: hash_file(path) for split, path in _paths(options).items()})

    def read(self, options: DataOptions, downloads: Path) -> Mapping[str, Iterator[RawRecord]]:
        return {split: READERS[path.suffix.lower()](path) for split, path in _paths(options).items()}

    def records(self, path: Path, option: str) -> Iterator[RawRecord]:
        """The records of any one file; raises ``InvalidData`` that names the option which it was given by."""
        _check(path, option)
        return READERS[path.suffix.lower()](path)


def _paths(options: DataOptions) -> dict[str, Path]:
    given = {split: getattr(options, split) for split in SPLITS}
    if not given["train"]:
        raise InvalidData(
            "no training data is given: set data.train=FILE, or choose a demo set, e.g. data=movie_reviews"
        )
    paths = {split: Path(path).expanduser().absolute() for split, path in given.items() if path}
    for split, path in paths.items():
        _check(path, f"data.{split}")
    return paths


def _check(path: Path, option: str) -> None:
    if not path.is_file():
        near = [one.name for one in path.parent.glob("[!.]*") if one.suffix.lower() in READERS]
        raise InvalidData(f"{option}: the file {path} does not exist{did_you_mean(path.name, near[:MAX_NEARBY_FILES])}")
    if path.suffix.lower() not in READERS:
        raise InvalidData(f"{option}: {path.name} is none of {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise InvalidData(f"{option}: the file {path} is empty")


def _iter_lines(path: Path) -> Iterator[str]:
    """The file's lines as text; a byte that is not UTF-8 is said with its line."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_LIMIT), b""), 1):
            if len(line) == LINE_LIMIT:
                raise InvalidData(f"{path}:{number}: the line is longer than {LINE_LIMIT // 1_000_000} MB")
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InvalidData(
                    f"{path}:{number}: byte {error.start + 1} of the line is not UTF-8: save the file as UTF-8, "
                    "e.g. with 'iconv -f latin1 -t utf-8'"
                ) from error
            yield text.removeprefix(codecs.BOM_UTF8.decode("utf-8")) if number == 1 else text


def _read_csv(delimiter: str) -> Callable[[Path], Iterator[RawRecord]]:
    def read(path: Path) -> Iterator[RawRecord]:
        csv.field_size_limit(FIELD_LIMIT)
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
            raise InvalidData(f"{path}:{reader.line_num}: {error}") from error

    return read


def _read_jsonl(path: Path) -> Iterator[RawRecord]:
    for number, line in enumerate(_iter_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            yield RawRecord(where, None, f"no JSON: {error}")
            continue
        yield RawRecord(where, value) if isinstance(value, dict) else RawRecord(where, None, "no JSON object")


def _read_parquet(path: Path) -> Iterator[RawRecord]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingPackage("a Parquet file needs pyarrow: pip install 'fastserve-core[data]'") from error
    try:
        number = 0
        with parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                values: dict[str, Any]
                for values in batch.to_pylist():
                    number += 1
                    yield RawRecord(f"{path} row {number}", values)
    except ArrowException as error:
        raise InvalidData(f"{path} is no Parquet file: {error}") from error


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
