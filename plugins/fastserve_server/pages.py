"""The pages for people: one to try the model, one that describes the API. Nothing is loaded from elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from starlette.responses import HTMLResponse, Response

from fastserve_server.service import Service

CONTENT_SECURITY_POLICY = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
}


@functools.cache
def _templates() -> Environment:
    return Environment(loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True)


def home(service: Service, models: Sequence[str], guarded: bool) -> Response:
    """A form that asks a model and shows the answer; it asks for a key where the server does."""
    return _page(
        "home.html",
        model=service.name,
        others=[one for one in models if one != service.name],
        task=service.task.name,
        pairs=any(column.name == "text_pair" for column in service.task.columns),
        generative=service.task.generative,
        guarded=guarded,
        most_tokens=service.options.max_new_tokens,
    )


def dashboard(models: Sequence[str], guarded: bool) -> Response:
    """What ``/metrics`` counts, as it goes on: the page computes it, and the server's requests pay nothing for it."""
    return _page("dashboard.html", model=", ".join(models), guarded=guarded)


def docs(description: Mapping[str, Any]) -> Response:
    """The OpenAPI description as a page."""
    return _page("docs.html", description=description)


def _page(template: str, **values: Any) -> Response:
    return HTMLResponse(_templates().get_template(template).render(values), headers=CONTENT_SECURITY_POLICY)
