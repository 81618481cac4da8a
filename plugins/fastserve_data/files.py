"""Data source of files: CSV, TSV, JSON, Parquet, Arrow, Excel, plain text; each record has its position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fastserve_core.artifacts import expand_user, stable_hash
from fastserve_core.data import SPLITS, RawRecord, Report
from fastserve_core.errors import DataError
from fastserve_data import writers
from fastserve_data.arrow_files import read_arrow
from fastserve_data.conll import read_conll
from fastserve_data.documents import TEXT_DOCUMENTS, find_documents, read_document
from fastserve_data.inter_files import ITEM_SUFFIX, SUFFIX, read_inter
from fastserve_data.json_files import read_json
from fastserve_data.json_splits import find_parts, read_parts
from fastserve_data.marked_sentences import is_marked_sentence, read_marked_sentences
from fastserve_data.parallel_files import TEXTS, read_parallel
from fastserve_data.paths import DataFile, find_files, find_splits
from fastserve_data.rasa import read_rasa
from fastserve_data.row_stream import RowStream
from fastserve_data.separated import read_separated
from fastserve_data.streams import follow_stream, read_stream
from fastserve_data.text_files import iterate_lines, open_text
from fastserve_data.workbook import read_workbook

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

READERS_VERSION = 2
"""Part of every fingerprint: it changes when a reader gives other rows for the same bytes."""

Reader = Callable[[Path, "DataOptions", Report, str], Iterator[RawRecord]]


class Files:
    """Data source of ``data.train``, ``data.validation`` and ``data.test``; missing splits are cut from train."""

    def fingerprint(self, options: DataOptions, downloads: Path) -> str:
        """Return a hash of the files' contents and formats.

        Args:
            options: Options of the data with the paths.
            downloads: Folder of downloads, unused here.

        Raises:
            DataError: A file is missing, empty or of an unsupported type.
        """
        splits = _find_files(options, lambda _: None)
        return stable_hash(
            [READERS_VERSION, {split: [file.hash() for file in files] for split, files in splits.items()}]
        )

    def read(self, options: DataOptions, downloads: Path, report: Report) -> Mapping[str, Iterator[RawRecord]]:
        """Return the records of each split with a file.

        Args:
            options: Options of the data with the paths.
            downloads: Folder of downloads, unused here.
            report: Called with a message for each guess.

        Raises:
            DataError: A file is missing, empty or of an unsupported type.
        """
        return {split: _read_files(files, options, report) for split, files in _find_files(options, report).items()}

    def check_files(self, given: Any, option: str) -> None:
        """Check that files exist and can be read.

        Args:
            given: A path, a pattern, a folder, or a list of them.
            option: Option that they come from, for error messages.

        Raises:
            DataError: A file is missing, empty or of an unsupported type.
        """
        find_files(given, option)

    def hash_files(self, given: Any, option: str) -> str:
        """Return a hash of the files' contents and formats.

        Args:
            given: A path, a pattern, a folder, or a list of them.
            option: Option that they come from, for error messages.

        Raises:
            DataError: A file is missing, empty or of an unsupported type.
        """
        return stable_hash([READERS_VERSION, [file.hash() for file in find_files(given, option)]])

    def records(self, given: Any, option: str, options: DataOptions, report: Report) -> Iterator[RawRecord]:
        """Return the records of files, one after the other.

        Args:
            given: A path, a pattern, a folder, or a list of them.
            option: Option that they come from, for error messages.
            options: Options of the data, with those of reading.
            report: Called with a message for each guess.

        Raises:
            DataError: A file is missing, empty, of an unsupported type, or cannot be read.
        """
        return _read_files(find_files(given, option), options, report)

    def documents(
        self, given: Any, option: str, options: DataOptions, report: Report
    ) -> Iterator[tuple[Path, Iterator[RawRecord]]]:
        """Yield each file with its records; a text or a Markdown file is one record, as is each row of another file.

        Args:
            given: A path, a pattern, a folder with its subfolders, or a list of them.
            option: Option that they come from, for error messages.
            options: Options of the data, with those of reading.
            report: Called with a message for each guess.

        Raises:
            DataError: A file is missing, empty, of an unsupported type, or cannot be read.
        """
        for file in find_documents(given, option):
            if file.suffix in TEXT_DOCUMENTS:
                yield file.path, read_document(file.path, options, report)
            else:
                yield file.path, _read_files([file], options, report)

    def read_stream(
        self, stream: BinaryIO, name: str, row_format: str | None, options: DataOptions, report: Report
    ) -> tuple[str, Iterator[RawRecord]]:
        """Return the format and the records of a stream that is read once, such as a pipe.

        Args:
            stream: The stream, which is closed at the end.
            name: Its name, for messages.
            row_format: ``csv``, ``tsv``, ``jsonl`` or ``txt``; by default guessed from its first line.
            options: Options of the data, with those of reading.
            report: Called with a message for each guess.

        Raises:
            DataError: It cannot be read.
        """
        return read_stream(stream, name, row_format, options, report)

    def follow(
        self, given: str, row_format: str | None, options: DataOptions, report: Report, stop: Callable[[], bool]
    ) -> tuple[str, Iterator[RawRecord]]:
        """Return the format and the records of a file that grows, or of standard input, as their lines are written.

        Args:
            given: The path, or ``-``.
            row_format: ``csv``, ``tsv``, ``jsonl`` or ``txt``; by default that of the file's name, or guessed.
            options: Options of the data, with those of reading.
            report: Called with a message for each guess, and if the file was truncated or replaced.
            stop: Returns whether to end.

        Raises:
            DataError: The file is missing, of an unsupported type, or cannot be read.
        """
        return follow_stream(given, row_format, options, report, stop)

    def open_row_stream(self, stream: BinaryIO, row_format: str) -> RowStream:
        """Return a writer of rows to a stream.

        Args:
            stream: The stream.
            row_format: ``csv``, ``tsv`` or ``jsonl``.

        Raises:
            DataError: The format is not one of these.
        """
        return RowStream(stream, row_format)

    def check_output(self, path: Path) -> None:
        """Check that rows can be written to a file of that name.

        Raises:
            DataError: Its type is not supported, or its folder cannot be written to.
        """
        writers.check_output(path)

    def write_rows(self, parts: Sequence[Path], columns: Sequence[str], output: Path) -> None:
        """Write the rows of files of JSON lines to one file, atomically.

        Args:
            parts: The files.
            columns: The columns of a table.
            output: The file to write, whose suffix decides the format.

        Raises:
            StoreError: The file cannot be written.
        """
        writers.write_rows(parts, columns, output)


def _find_files(options: DataOptions, report: Report) -> dict[str, list[DataFile]]:
    given = {split: getattr(options, split) for split in SPLITS}
    if not given["train"]:
        raise DataError("no training data: set data.train=FILE, or choose a demo set, for example data=movie_reviews")
    if isinstance(given["train"], str) and (folder := expand_user(given["train"]).absolute()).is_dir():
        found = find_splits(folder)
        for split, paths in found.items():
            if split == "train" or not given[split]:
                given[split] = paths
                report(f"{folder}: {split} is {', '.join(Path(path).name for path in paths)}")
    found_files = {split: find_files(paths, f"data.{split}") for split, paths in given.items() if paths}
    return _divide_file(found_files, report)


def _divide_file(files: dict[str, list[DataFile]], report: Report) -> dict[str, list[DataFile]]:
    """Give each split its lists of files that hold several, and all splits of one that is the training file."""
    divided = dict(files)
    for split, own in files.items():
        parts = [find_parts(file.path, file.suffix) for file in own]
        if not any(parts):
            continue
        divided[split] = [
            replace(file, parts=found[split]) if split in found else file
            for file, found in zip(own, parts, strict=True)
        ]
        if split == "train" and len(own) == 1 and split in parts[0]:
            others = {name: [replace(own[0], parts=names)] for name, names in parts[0].items() if name not in files}
            divided |= others
    for split, own in divided.items():
        for file in own:
            if file.parts:
                report(f"{file.path}: {split} is {', '.join(file.parts)}")
    return divided


def _read_files(files: list[DataFile], options: DataOptions, report: Report) -> Iterator[RawRecord]:
    for file in files:
        if file.parts:
            yield from read_parts(file.path, file.parts, options, report)
            continue
        yield from READERS[file.suffix](file.path, options, report, file.suffix)


def _read_txt(path: Path, options: DataOptions, report: Report, suffix: str) -> Iterator[RawRecord]:
    with open_text(path, options.encoding, None, report) as file:
        lines = ((number, line.strip()) for number, line in enumerate(iterate_lines(file, path), 1))
        first = next(((number, line) for number, line in lines if line), None)
        if first is None:
            return
        if is_marked_sentence(first[1]):
            report(f"{path}: sentences with marked entities, each with its relation in the next line")
            yield from read_marked_sentences(chain([first], lines), path)
            return
        for number, line in chain([first], lines):
            if line:
                yield RawRecord(f"{path}:{number}", {"text": line})


READERS: dict[str, Reader] = {
    ".csv": read_separated,
    ".tsv": read_separated,
    SUFFIX: read_inter,
    ITEM_SUFFIX: read_inter,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".parquet": read_arrow,
    ".arrow": read_arrow,
    "": read_arrow,
    ".xlsx": read_workbook,
    ".txt": _read_txt,
    ".conll": read_conll,
    ".yml": read_rasa,
    ".yaml": read_rasa,
    TEXTS: read_parallel,
}
"""The readers by suffix; the empty one is that of a saved data set, ``seq.in`` that of parallel files."""
