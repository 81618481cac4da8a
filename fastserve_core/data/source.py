"""The protocols of data sources."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from fastserve_core.entry_points import load_entry_point

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions
    from fastserve_core.tasks.task import Task

GROUP = "fastserve.data"
"""The group of entry points of data sources."""

Report = Callable[[str], None]
"""Takes a message about the data: a guess, or a sign of a fault."""


@dataclass(frozen=True)
class RawRecord:
    """One record of a data source.

    Attributes:
        where: Its location, such as file and line.
        values: Its values by column; ``None`` if it cannot be read.
        fault: Why it cannot be read.
    """

    where: str
    values: Mapping[str, Any] | None
    fault: str = ""


def split_records(records: Iterable[RawRecord], task: Task) -> Iterator[RawRecord]:
    """Yield the rows that a task finds in each record."""
    for record in records:
        if record.values is None:
            yield record
            continue
        for place, values in task.split_record(record.values):
            yield RawRecord(record.where + place, values)


class DataSource(Protocol):
    """A data source; an entry point of the group ``fastserve.data`` provides its class."""

    def fingerprint(self, options: DataOptions, downloads: Path) -> str:
        """Hash all that decides the records beside the options: the bytes, the formats, the version of the reader.

        Args:
            options: The ``data`` node of the config.
            downloads: The folder of downloaded files.
        """

    def read(self, options: DataOptions, downloads: Path, report: Report) -> Mapping[str, Iterator[RawRecord]]:
        """Read the records of each split that the source has.

        Args:
            options: The ``data`` node of the config.
            downloads: The folder of downloaded files.
            report: Called with a message for each guess.

        Returns:
            The records by split: ``train``, ``validation``, ``test``.

        Raises:
            DataError: The data cannot be read.
        """


class RowStream(Protocol):
    """Writes rows to a stream.

    Attributes:
        dropped: The number of values by column that could not be written, because the header lacks the column.
    """

    dropped: Mapping[str, int]

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows and flush the stream."""

    def close(self) -> None:
        """Flush the stream, which stays open."""


class FileSource(DataSource, Protocol):
    """The source of files. All other code that reads files uses it, so that a file is read alike everywhere."""

    def check_files(self, given: Any, option: str) -> None:
        """Check that files exist and can be read.

        Args:
            given: A path, a pattern, a folder, or a list of them.
            option: The option that they come from, for error messages.

        Raises:
            DataError: A file is missing, empty or of an unsupported type.
        """

    def hash_files(self, given: Any, option: str) -> str:
        """Hash the contents and formats of files.

        Args:
            given: A path, a pattern, a folder, or a list of them.
            option: The option that they come from, for error messages.

        Raises:
            DataError: A file is missing, empty or of an unsupported type.
        """

    def records(self, given: Any, option: str, options: DataOptions, report: Report) -> Iterator[RawRecord]:
        """Read the records of files.

        Args:
            given: A path, a pattern, a folder, or a list of them.
            option: The option that they come from, for error messages.
            options: The ``data`` node of the config, with the options of reading.
            report: Called with a message for each guess.

        Raises:
            DataError: A file is missing, empty, of an unsupported type, or cannot be read.
        """

    def documents(
        self, given: Any, option: str, options: DataOptions, report: Report
    ) -> Iterator[tuple[Path, Iterator[RawRecord]]]:
        """Yield each file with its records; a text or a Markdown file is one record, as is each row of another file.

        Args:
            given: A path, a pattern, a folder with its subfolders, or a list of them.
            option: The option that they come from, for error messages.
            options: The ``data`` node of the config, with the options of reading.
            report: Called with a message for each guess.

        Raises:
            DataError: A file is missing, empty, of an unsupported type, or cannot be read.
        """

    def read_stream(
        self, stream: BinaryIO, name: str, row_format: str | None, options: DataOptions, report: Report
    ) -> tuple[str, Iterator[RawRecord]]:
        """Return the format and the records of a stream that is read once, such as a pipe.

        Args:
            stream: The stream, which is closed at the end.
            name: Its name, for messages.
            row_format: ``csv``, ``tsv``, ``jsonl`` or ``txt``; by default guessed from its first line.
            options: The ``data`` node of the config, with the options of reading.
            report: Called with a message for each guess.

        Raises:
            DataError: It cannot be read.
        """

    def follow(
        self, given: str, row_format: str | None, options: DataOptions, report: Report, stop: Callable[[], bool]
    ) -> tuple[str, Iterator[RawRecord]]:
        """Return the format and the records of a file that grows, or of standard input, as their lines are written.

        Args:
            given: The path, or ``-``.
            row_format: ``csv``, ``tsv``, ``jsonl`` or ``txt``; by default that of the file's name, or guessed.
            options: The ``data`` node of the config, with the options of reading.
            report: Called with a message for each guess, and if the file was truncated or replaced.
            stop: Returns whether to end.

        Raises:
            DataError: The file is missing, of an unsupported type, or cannot be read.
        """

    def open_row_stream(self, stream: BinaryIO, row_format: str) -> RowStream:
        """Return a writer of rows to a stream.

        Args:
            stream: The stream.
            row_format: ``csv``, ``tsv`` or ``jsonl``.

        Raises:
            UnknownNameError: The format is not one of these.
        """

    def check_output(self, path: Path) -> None:
        """Check that rows can be written to a file of that name.

        Raises:
            DataError: Its type is not supported, or its folder cannot be written to.
        """

    def write_rows(self, parts: Sequence[Path], columns: Sequence[str], output: Path) -> None:
        """Write the rows of files of JSON lines to one file, atomically.

        Args:
            parts: The files.
            columns: The columns of a table.
            output: The file to write, whose suffix decides the format.

        Raises:
            StoreError: The file cannot be written.
        """


def file_source() -> FileSource:
    """Return the source that reads the user's files."""
    source: FileSource = load_entry_point(GROUP, "files")()
    return source
