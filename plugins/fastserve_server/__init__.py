"""Server plugin: serves models over HTTP from one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastserve_core import hookimpl
from fastserve_core.plugins import Server
from fastserve_server.options import ServerOptions

if TYPE_CHECKING:
    from fastserve_core.plugins import ServeContext
    from fastserve_server.server import ServerProcess

__all__ = ["EmbeddedServer", "ServerOptions"]


class EmbeddedServer(Server):
    """The default server: one process that batches requests for a few engine workers."""

    api_version: ClassVar[int] = 2
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
    def serve(self, run: ServeContext) -> ServerProcess:
        """Start the server process and wait until it answers.

        Args:
            run: Context of the call.
        """
        from fastserve_server.server import start

        return start(run.model.folder, self.options, run.threads)
