"""A line on a terminal that shows how far a command is; lines at intervals if the output is not a terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO

from fastserve_core.events import Event, Notice, Progress, WarningRaised

TERMINAL_SECONDS, LOG_SECONDS = 0.2, 10.0
"""The time between two updates."""


class ProgressLine:
    """Shows events of a command.

    Args:
        stream: The output.

    Attributes:
        rate: The number of items per second.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._is_terminal = stream, stream.isatty()
        self._start = self._shown = time.monotonic()
        self._width = 0
        self.rate = 0.0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clear()

    def show(self, event: Event) -> None:
        """Show an event: progress in the line, notices and warnings above it."""
        if isinstance(event, Progress):
            self._show_progress(event)
        elif isinstance(event, (Notice, WarningRaised)):
            self._clear()
            prefix = "warning: " if isinstance(event, WarningRaised) else ""
            print(f"{prefix}{event.message}", file=self._stream, flush=True)

    def _show_progress(self, event: Progress) -> None:
        now = time.monotonic()
        self.rate = event.done / max(now - self._start, 1e-9)
        is_last = event.done >= event.total
        if not is_last and now - self._shown < (TERMINAL_SECONDS if self._is_terminal else LOG_SECONDS):
            return
        self._shown = now
        left = (event.total - event.done) / self.rate if self.rate else 0
        text = f"{event.activity} {event.done}/{event.total}, {self.rate:,.0f}/s, {left:.0f} s left"
        if self._is_terminal:
            self._clear()
            self._stream.write(text)
            self._stream.flush()
            self._width = len(text)
        elif not is_last:
            print(text, file=self._stream, flush=True)

    def _clear(self) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0
