"""Progress on a terminal: coloured lines above one live bar."""

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

from fastserve_observers.screens import TEXT_COLUMNS, remove_control_characters

REFRESH_S = 0.1
BAR_WIDTH = 28
STATUS_STYLES = {"done": "green", "reused": "cyan", "rejected": "yellow", "failed": "red"}


class Terminal(Console):
    """Console of Rich whose broken pipe raises an error and does not end the process."""

    def on_broken_pipe(self) -> None:
        """Raise ``BrokenPipeError``."""
        raise BrokenPipeError


def make_console() -> Console:
    """Return a console for the standard output."""
    return Terminal(highlight=False)


class LiveScreen:
    """Screen that redraws on each call, without a thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._bar_label = ""
        self._next_draw = 0.0

    def print_line(self, text: str, style: str = "") -> None:
        """Print a line above the bar."""
        self._console.print(
            Text(remove_control_characters(text), style=style), soft_wrap=True
        )  # no wrapping, so that paths can be copied

    def show_bar(self, label: str, done: int, total: int, time_left: str, detail: str) -> None:
        """Show or update the bar."""
        now = monotonic()
        if self._live is not None and label == self._bar_label and now < self._next_draw and done < total:
            return
        self._bar_label, self._next_draw = label, now + REFRESH_S
        grid = Table.grid(padding=(0, 1))
        counts = f"{done}/{total}" + (f", {time_left}" if time_left else "")
        grid.add_row(
            Text(remove_control_characters(label)),
            ProgressBar(total=total, completed=done, width=BAR_WIDTH),
            Text(counts),
        )
        content = Group(grid, Text(remove_control_characters(detail), style="dim", no_wrap=True, overflow="ellipsis"))
        self._get_live().update(content if detail else grid, refresh=True)

    def print_table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table above the bar."""
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        for index, name in enumerate(head):
            is_numeric = index >= TEXT_COLUMNS
            title = name.replace(" ", "\n") if is_numeric else name
            table.add_column(title, justify="right" if is_numeric else "left", no_wrap=is_numeric, overflow="fold")
        for row in rows:
            table.add_row(*(Text(remove_control_characters(cell), style=STATUS_STYLES.get(cell, "")) for cell in row))
        self._console.print(table)

    def end_bar(self) -> None:
        """Remove the bar."""
        if self._live is not None:
            live, self._live = self._live, None
            atexit.unregister(self.end_bar)
            live.stop()

    def _get_live(self) -> Live:
        if self._live is None:
            # stderr may be redirected to a file; Rich may draw it above the bar only on a terminal
            self._live = Live(
                console=self._console, transient=True, auto_refresh=False, redirect_stderr=sys.stderr.isatty()
            )
            atexit.register(self.end_bar)  # a failed stage emits no event, but the cursor must be restored
            self._live.start()
        return self._live
