"""Streams that wait for more bytes, and end if they are to stop."""

from __future__ import annotations

import io
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

POLL_SECONDS = 0.1
"""The time between two looks at a file that has not grown."""


class WaitingStream(io.RawIOBase):
    """A stream of bytes that come over time.

    Attributes:
        is_complete: Whether the stream has ended by itself, so that its last line is a whole one.
    """

    is_complete = False

    def readable(self) -> bool:
        """Return that it can be read."""
        return True


class WaitingInput(WaitingStream):
    """An open file, such as a pipe.

    Args:
        number: The number of the open file.
        stop: Returns whether to end.
    """

    def __init__(self, number: int, stop: Callable[[], bool]) -> None:
        self._number, self._stop = number, stop

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read bytes into a buffer; return their number, which is 0 at the end."""
        while not self._stop():
            if select.select([self._number], [], [], POLL_SECONDS)[0]:
                count = os.readv(self._number, [buffer])
                self.is_complete = not count
                return count
        return 0


class Tail(WaitingStream):
    """A file that grows; it ends when it is truncated, or when another file has its name.

    Args:
        path: The file.
        stop: Returns whether to end.

    Attributes:
        change: ``truncated`` or ``replaced`` if it ended for that reason.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, stop: Callable[[], bool]) -> None:
        self._path, self._stop = path, stop
        self._file = path.open("rb", buffering=0)
        self.change = ""

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read bytes into a buffer; return their number, which is 0 at the end."""
        while not self._stop():
            change = self._find_change()
            if count := self._file.readinto(buffer):  # written before the change
                return count
            if change:
                self.change, self.is_complete = change, change == "replaced"
                return 0
            time.sleep(POLL_SECONDS)
        return 0

    def _find_change(self) -> str:
        own = os.fstat(self._file.fileno())
        try:
            named = self._path.stat()
        except OSError:
            return ""  # it was moved, and its successor is not there yet
        if (named.st_dev, named.st_ino) != (own.st_dev, own.st_ino):
            return "replaced"
        return "truncated" if own.st_size < self._file.tell() else ""

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
