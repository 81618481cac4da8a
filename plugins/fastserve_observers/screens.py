"""Progress without a terminal as plain lines, and the interface of both kinds of screens."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from time import monotonic
from typing import Protocol, TextIO

CONTROL_CHARACTERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Screen(Protocol):
    """Output of the progress; each method raises ``OSError`` if the output is closed."""

    def print_line(self, text: str, style: str = "") -> None:
        """Print a permanent line."""

    def show_bar(self, label: str, done: int, total: int, time_left: str, detail: str) -> None:
        """Show a progress bar in place of the last one."""

    def print_table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a permanent table; columns from the fourth on hold numbers."""

    def end_bar(self) -> None:
        """Remove the bar."""


TEXT_COLUMNS = 3
"""Number of leading columns with text; the others hold numbers and are aligned on the right."""


def remove_control_characters(text: str) -> str:
    """Replace control characters except line ends, because labels and messages may contain any text."""
    return CONTROL_CHARACTERS.sub(" ", text)


class PlainScreen:
    """Screen for a file or a pipe: no colours, no overwriting, and a line from time to time in place of a bar."""

    def __init__(self, stream: TextIO, every_s: float) -> None:
        """Create the screen.

        Args:
            stream: Text stream to write to.
            every_s: Minimum number of seconds between two bars.
        """
        self._stream = stream
        self._every_s = every_s
        self._next_bar = float("-inf")

    def print_line(self, text: str, style: str = "") -> None:
        """Print a line; characters outside of the stream's encoding are replaced."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        shown = remove_control_characters(text).encode(encoding, "replace").decode(encoding)
        if self._stream.closed:
            raise BrokenPipeError
        self._stream.write(shown + "\n")
        self._stream.flush()

    def show_bar(self, label: str, done: int, total: int, time_left: str, detail: str) -> None:
        """Print the bar as a line unless the last one is too recent."""
        now = monotonic()
        if now < self._next_bar:
            return
        self._next_bar = now + self._every_s
        parts = (f"{label} {done}/{total}", detail, time_left)
        self.print_line(", ".join(part for part in parts if part))

    def print_table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table with aligned columns."""
        lines = [list(head), *([" ".join(remove_control_characters(cell).split()) for cell in row] for row in rows)]
        widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
        for line in lines:
            cells = (
                cell.ljust(width) if index < TEXT_COLUMNS else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            self.print_line("  ".join(cells).rstrip())

    def end_bar(self) -> None:
        """Do nothing, because lines need no end."""


def open_screen(every_s: float) -> Screen:
    """Return a live screen for a capable terminal, otherwise plain lines, on the standard output."""
    stream = sys.stdout
    is_terminal = not stream.closed and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if is_terminal and (stream.encoding or "").lower().startswith("utf"):
        from fastserve_observers.rich_screen import LiveScreen, make_console

        return LiveScreen(make_console())
    return PlainScreen(stream, every_s)
