"""Progress on a terminal: lines in colour above one live bar."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Sequence
from time import monotonic

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fastserve_observers.screens import STATUS_WORDS, clean

REFRESH_S = 0.1
BAR_WIDTH = 28
STATUS_STYLES = {"done": "green", "reused": "cyan", "rejected": "yellow", "failed": "red"}


class Terminal(Console):
    """Rich's console, but a reader that went away does not end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console() -> Console:
    """The standard output."""
    return Terminal(highlight=False)


class LiveScreen:
    """It is drawn when it is told something, without a thread of its own."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._shown = ""
        self._next_draw = 0.0

    def line(self, text: str, style: str = "") -> None:
        self._console.print(Text(clean(text), style=style), soft_wrap=True)  # a path stays one word to copy

    def bar(self, what: str, done: int, total: int, left: str, detail: str) -> None:
        now = monotonic()
        if self._live is not None and what == self._shown and now < self._next_draw and done < total:
            return
        self._shown, self._next_draw = what, now + REFRESH_S
        place = Table.grid(padding=(0, 1))
        counts = f"{done}/{total}" + (f", {left}" if left else "")
        place.add_row(Text(clean(what)), ProgressBar(total=total, completed=done, width=BAR_WIDTH), Text(counts))
        shown = Group(place, Text(clean(detail), style="dim", no_wrap=True, overflow="ellipsis"))
        self._started().update(shown if detail else place, refresh=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        for place, name in enumerate(head):
            numeric = place >= STATUS_WORDS
            shown = name.replace(" ", "\n") if numeric else name
            table.add_column(shown, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
        for row in rows:
            table.add_row(*(Text(clean(cell), style=STATUS_STYLES.get(cell, "")) for cell in row))
        self._console.print(table)

    def end_bar(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            atexit.unregister(self.end_bar)
            live.stop()

    def _started(self) -> Live:
        if self._live is None:
            # what goes to stderr may be on its way to a file: only a terminal's is drawn above the bar
            self._live = Live(
                console=self._console, transient=True, auto_refresh=False, redirect_stderr=sys.stderr.isatty()
            )
            atexit.register(self.end_bar)  # a stage that fails tells nobody: the cursor must come back
            self._live.start()
        return self._live
