"""The server process: ``python -m fastserve_server.process``, started by ``fastserve_server.server``."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
import uvloop
from starlette.applications import Starlette

from fastserve_core.errors import FastServeError
from fastserve_server.application import build_application
from fastserve_server.child import failure, report, run_child
from fastserve_server.options import ServerOptions
from fastserve_server.reloading import reload
from fastserve_server.service import Service

KEEP_ALIVE_S = 75
"""Longer than clients keep idle connections, so that none is closed just when it is used again."""


class DrainingServer(uvicorn.Server):
    """Ends on a signal with exit code 0, after the requests that are open."""

    def __init__(self, config: uvicorn.Config, state: Any) -> None:
        super().__init__(config)
        self._state = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop accepting; uvicorn's own would raise the signal again at the end, and die of it."""
        self._state.service.draining = True
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
    server = DrainingServer(config, application.state)
    serving = asyncio.create_task(server.serve(sockets=[socket.socket(fileno=request["socket"])]))
    try:
        await service.loaded()
        ready()
        reloading = asyncio.create_task(_reload(application, request))
    finally:
        if not service.ready:
            server.should_exit = True
        await serving
    reloading.cancel()


async def _reload(application: Starlette, request: Mapping[str, Any]) -> None:
    """Serve the artifacts that the parent names on stdin, one after another, and tell it how that went."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    retiring = set[asyncio.Task[None]]()
    while line := await lines.readline():
        try:
            task = await reload(application, Path(json.loads(line)["artifact"]), request["threads"])
        except FastServeError as error:
            report(request["report"], failure(error))
            continue
        if task is not None:
            retiring.add(task)
            task.add_done_callback(retiring.discard)
        report(request["report"], {"changed": task is not None})


if __name__ == "__main__":
    run_child(serve)
