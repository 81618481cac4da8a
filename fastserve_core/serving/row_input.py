"""Rows of files, of standard input or of a file that grows, in windows that are answered together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from fastserve_core.data.inputs import InputRow, match_rows
from fastserve_core.data.source import RawRecord, Report, file_source
from fastserve_core.errors import OptionError
from fastserve_core.serving.windows import gather_windows, iterate_windows
from fastserve_core.tasks.task import Task

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions

STREAM = "-"
STREAM_FORMATS = ("csv", "tsv", "jsonl")


@dataclass(frozen=True)
class RowRequest:
    """The rows that a command reads.

    Attributes:
        given: The paths, or ``-`` alone for standard input.
        data: How they are read.
        row_format: The format of standard input; by default guessed.
        follow: Whether to wait for rows that are appended.

    Raises:
        OptionError: They do not fit together.
    """

    given: Sequence[str]
    data: DataOptions
    row_format: str | None = None
    follow: bool = False

    def __post_init__(self) -> None:
        if STREAM in self.given and len(self.given) > 1:
            raise OptionError("--input - reads standard input alone, without further files")
        if self.follow and len(self.given) > 1:
            raise OptionError("--follow reads one file or -")

    def open(self, task: Task, report: Report, stop: Callable[[], bool]) -> tuple[str, Iterator[Sequence[InputRow]]]:
        """Open the rows as inputs of a model.

        Args:
            task: The model's task.
            report: Called with a message for each guess.
            stop: Returns whether to end, if rows are followed.

        Returns:
            The format of the rows as one of a stream, and the windows.

        Raises:
            DataError: They cannot be read, or lack a column.
        """
        found, records = self._open_records(report, stop)
        found = found if found in STREAM_FORMATS else "jsonl"
        if not self.follow:
            return found, iterate_windows(match_rows(records, task, self.data, report))
        return found, gather_windows(match_rows(records, task, self.data, report, is_endless=True))

    def _open_records(self, report: Report, stop: Callable[[], bool]) -> tuple[str, Iterator[RawRecord]]:
        source = file_source()
        if self.follow:
            return source.follow(self.given[0], self.row_format, self.data, report, stop)
        if list(self.given) == [STREAM]:
            stream = os.fdopen(os.dup(0), "rb")
            return source.read_stream(stream, "standard input", self.row_format, self.data, report)
        source.check_files(list(self.given), "--input")
        records = source.records(list(self.given), "--input", self.data, report)
        return self.row_format or _find_common_format(self.given), records


def _find_common_format(names: Sequence[str]) -> str:
    """Return the format that all files have by their names; JSON lines if they have several, or one of another kind."""
    found = {suffix for name in names for suffix in STREAM_FORMATS if f".{suffix}" in Path(name).suffixes}
    return found.pop() if len(found) == 1 else "jsonl"


@contextmanager
def catch_signals(is_active: bool = True) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT or SIGTERM came; a second signal interrupts.

    Args:
        is_active: Whether signals are caught; otherwise they interrupt at once.
    """
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM) if is_active else ()
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
