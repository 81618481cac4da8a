"""Serves a model over HTTP from one process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastserve_core import API_VERSION, hookimpl
from fastserve_server.options import ServerOptions

if TYPE_CHECKING:
    from fastserve_core.plugins import Run
    from fastserve_server.server import ServerProcess

__all__ = ["EmbeddedServer", "ServerOptions"]


class EmbeddedServer:
    """The default server: one process that batches requests for a few engine workers."""

    api_version: ClassVar[int] = API_VERSION
    requires: ClassVar[tuple[str, ...]] = (
        "httptools",
        "jinja2",
        "msgspec",
        "prometheus_client",
        "starlette",
        "uvicorn",
        "uvloop",
    )
    Options: ClassVar[type] = ServerOptions

    def __init__(self, options: ServerOptions) -> None:
        self.options = options

    @hookimpl
    def serve(self, run: Run) -> ServerProcess:
        """Start the server process; returns when it answers."""
        from fastserve_server.server import start

        return start(run.model.folder, self.options, run.threads)
