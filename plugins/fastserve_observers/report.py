"""Write report.html and report.md into the folder of a finished run."""

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
    """Options of ``observe.report``, which has none."""


class Report(Observer):
    """Observer that writes a self-contained HTML page and a Markdown file."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("jinja2",)
    Options: ClassVar[type] = ReportOptions

    def __init__(self, options: ReportOptions) -> None:
        self._history = History()

    @hookimpl
    def observe(self, event: Event) -> None:
        """Collect one event, and write the report with the last one."""
        self._history.add(event)
        if isinstance(event, RunFinished):
            self._write(event)

    def _write(self, event: RunFinished) -> None:
        from fastserve_observers.report_context import make_context

        context = make_context(event.record, event.folder, self._history, datetime.now())
        for name in ("report.html", "report.md"):
            write_text(event.folder / name, render(name, context))


def render(name: str, context: dict[str, Any]) -> str:
    """Render a template; HTML is escaped, and in Markdown the characters that would break a table."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = escape_markdown_cell
    return environment.get_template(f"{name}.j2").render(context)


def escape_markdown_cell(value: Any) -> str:
    """Return text for one line or table cell of Markdown, with markup escaped."""
    text = " ".join(str(value).split())
    for character in ("\\", "`", "*", "|", "[", "]"):
        text = text.replace(character, "\\" + character)
    return text.replace("&", "&amp;").replace("<", "&lt;")
