"""Writes report.html and report.md into the folder of a run that is done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from fastserve_core import hookimpl
from fastserve_core.artifacts import write_text
from fastserve_core.events import Event, RunFinished
from fastserve_core.plugins import Observer
from fastserve_observers.history import History

TEMPLATES = Path(__file__).parent / "templates"


@dataclass
class ReportOptions:
    """There are none."""


class Report(Observer):
    """One file to look at and one to read; both need nothing but themselves."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("jinja2",)
    Options: ClassVar[type] = ReportOptions

    def __init__(self, options: ReportOptions) -> None:
        self._history = History()

    @hookimpl
    def observe(self, event: Event) -> None:
        self._history.add(event)
        if isinstance(event, RunFinished):
            self._write(event)

    def _write(self, event: RunFinished) -> None:
        from fastserve_observers.report_context import page

        filled = page(event.record, event.folder, self._history, datetime.now())
        for name in ("report.html", "report.md"):
            write_text(event.folder / name, render(name, filled))


def render(name: str, filled: dict[str, Any]) -> str:
    """A template filled; in HTML everything is escaped, in Markdown what would break a table."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = markdown_cell
    return environment.get_template(f"{name}.j2").render(filled)


def markdown_cell(value: Any) -> str:
    """Text for one line or table cell of Markdown; what would be markup is shown as it is."""
    words = " ".join(str(value).split())
    for mark in ("\\", "`", "*", "|", "[", "]"):
        words = words.replace(mark, "\\" + mark)
    return words.replace("&", "&amp;").replace("<", "&lt;")
