"""HTML pages: to try a model, the dashboard and the API's description. They load nothing from other servers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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


def home(service: Service, models: Sequence[str], requires_key: bool) -> Response:
    """Return the page with a form that sends inputs to a model and shows its answer.

    Args:
        service: Service of the model.
        models: Names of all models.
        requires_key: Whether the form has a field for an API key.
    """
    return _page(
        "home.html",
        model=service.name,
        others=[name for name in models if name != service.name],
        task=service.task.name,
        fields=service.task.request_columns,
        view=asdict(service.task.answer_view),
        generative=service.task.is_generative,
        requires_key=requires_key,
        max_new_tokens=service.options.max_new_tokens,
    )


def dashboard(models: Sequence[str], requires_key: bool) -> Response:
    """Return the page with live metrics; the browser computes it from ``/metrics``."""
    return _page("dashboard.html", model=", ".join(models), requires_key=requires_key)


def docs(description: Mapping[str, Any]) -> Response:
    """Return an OpenAPI description as a page."""
    return _page("docs.html", description=description)


def _page(template: str, **values: Any) -> Response:
    return HTMLResponse(_templates().get_template(template).render(values), headers=CONTENT_SECURITY_POLICY)
