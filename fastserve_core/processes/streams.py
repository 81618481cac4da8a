"""Lines for a terminal or a log that may be gone."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TextIO


def write_line(stream: TextIO | None, line: str) -> None:
    """Write a line to a stream at once, or drop it if that fails: the reader has ended, or the disk is full.

    The bytes do not pass through the stream's buffer, where they would remain and fail again when the process ends.

    Args:
        stream: ``sys.stdout`` or ``sys.stderr``.
        line: The line, without its end.
    """
    if stream is None:  # its descriptor was closed when the process started
        return
    with suppress(OSError, ValueError):
        stream.flush()
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # it is in memory, or closed
        with suppress(OSError, ValueError):
            print(line, file=stream, flush=True)
        return
    data = f"{line}\n".encode(errors="backslashreplace")
    with suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]
