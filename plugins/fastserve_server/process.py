"""The server process: ``python -m fastserve_server.process``, started by ``fastserve_server.server``."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
import uvloop

from fastserve_server.application import build_application
from fastserve_server.child import run_child
from fastserve_server.options import ServerOptions
from fastserve_server.service import Service

KEEP_ALIVE_S = 75
"""Longer than clients keep idle connections, so that none is closed just when it is used again."""


class DrainingServer(uvicorn.Server):
    """Ends on a signal with exit code 0, after the requests that are open."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop accepting; uvicorn's own would raise the signal again at the end, and die of it."""
        self._service.draining = True
        self.should_exit = True


def serve(request: Mapping[str, Any], ready: Callable[[], None]) -> None:
    """Serve on the socket that the parent bound."""
    uvloop.run(_serve(request, ready))


async def _serve(request: Mapping[str, Any], ready: Callable[[], None]) -> None:
    options = ServerOptions(**request["options"])
    artifact, threads, keys = Path(request["artifact"]), request["threads"], request["keys"]
    application = build_application(artifact, options, threads, wait=False, keys=keys)
    service: Service = application.state.service
    config = uvicorn.Config(
        application,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(options.drain_s),
    )
    server = DrainingServer(config, service)
    serving = asyncio.create_task(server.serve(sockets=[socket.socket(fileno=request["socket"])]))
    try:
        await service.loaded()
        ready()
    finally:
        if not service.ready:
            server.should_exit = True
        await serving


if __name__ == "__main__":
    run_child(serve)
