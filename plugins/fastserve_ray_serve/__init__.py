"""Server plugin for Ray Serve: the embedded server's application in several replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastserve_core import hookimpl
from fastserve_core.plugins import Server
from fastserve_ray_serve.options import RayServeOptions

if TYPE_CHECKING:
    from fastserve_core.plugins import ServeContext
    from fastserve_server.server import ServerProcess

__all__ = ["RayServe", "RayServeOptions"]


class RayServe(Server):
    """Serves with replicas behind Ray Serve's proxy, on a separate Ray instance on this machine."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("jinja2", "msgspec", "prometheus_client", "ray", "starlette", "uvicorn")
    Options: ClassVar[type] = RayServeOptions

    def __init__(self, options: RayServeOptions) -> None:
        self.options = options

    @hookimpl
    def serve(self, run: ServeContext) -> ServerProcess:
        """Start Ray and its replicas, and wait until they answer.

        Args:
            run: Context of the call.
        """
        from fastserve_ray_serve.server import start

        return start(run.model.folder, self.options, run.threads)
