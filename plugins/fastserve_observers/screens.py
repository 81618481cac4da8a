"""Where progress is shown when there is no terminal: plain lines, and what both kinds of screen share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from time import monotonic
from typing import Protocol, TextIO

CONTROL_CHARACTERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Screen(Protocol):
    """What progress needs of the place where it is shown; each method raises ``OSError`` when it is gone."""

    def line(self, text: str, style: str = "") -> None:
        """A line that stays."""

    def bar(self, what: str, done: int, total: int, left: str, detail: str) -> None:
        """How far something is; replaces the bar before it."""

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table that stays; the first column that holds numbers is the fourth."""

    def end_bar(self) -> None:
        """What the bar showed is over."""


STATUS_WORDS = 3
"""The columns of a table that hold words; the others hold numbers, aligned on the right."""


def clean(text: str) -> str:
    """The text without control characters but line ends: what a label or a message holds may be anything."""
    return CONTROL_CHARACTERS.sub(" ", text)


class PlainScreen:
    """Lines for a file or a pipe: no colours, nothing is overwritten, a bar is a line now and then."""

    def __init__(self, stream: TextIO, every_s: float) -> None:
        self._stream = stream
        self._every_s = every_s
        self._next_bar = float("-inf")

    def line(self, text: str, style: str = "") -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        shown = clean(text).encode(encoding, "replace").decode(encoding)
        if self._stream.closed:
            raise BrokenPipeError
        self._stream.write(shown + "\n")
        self._stream.flush()

    def bar(self, what: str, done: int, total: int, left: str, detail: str) -> None:
        now = monotonic()
        if now < self._next_bar:
            return
        self._next_bar = now + self._every_s
        self.line(", ".join(one for one in (f"{what} {done}/{total}", detail, left) if one))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = [list(head), *([" ".join(clean(cell).split()) for cell in row] for row in rows)]
        widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
        for line in lines:
            cells = (
                cell.ljust(width) if place < STATUS_WORDS else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            self.line("  ".join(cells).rstrip())

    def end_bar(self) -> None:
        """A line needs no end."""


def open_screen(every_s: float) -> Screen:
    """The live screen on a terminal that can show it, else plain lines; on the standard output."""
    stream = sys.stdout
    able = not stream.closed and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if able and (stream.encoding or "").lower().startswith("utf"):
        from fastserve_observers.rich_screen import LiveScreen, make_console

        return LiveScreen(make_console())
    return PlainScreen(stream, every_s)
