"""The server process: ``python -m fastserve_server.process``, started by ``fastserve_server.server``."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
import uvloop

from fastserve_core.artifacts import load_artifact
from fastserve_core.errors import FastServeError, StageError
from fastserve_core.processes import ignored_signals
from fastserve_server.application import build_application
from fastserve_server.child import error_report, run_child, send_report
from fastserve_server.connections import IDLE_S, TimeoutHttpProtocol
from fastserve_server.deployments import Candidate
from fastserve_server.hot_reload import check_memory_for_second, reload
from fastserve_server.metrics import Metrics
from fastserve_server.model_registry import ModelRegistry
from fastserve_server.options import ServerOptions
from fastserve_server.service import Service

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""How long a worker may hold the GIL while the event loop waits for it: a tenth of Python's default."""


class GracefulServer(uvicorn.Server):
    """Ends on a signal that it did not ignore at its start, with exit code 0, after the open requests.

    Args:
        config: uvicorn's configuration.
        models: The models, which reject new requests after the signal.
    """

    def __init__(self, config: uvicorn.Config, models: ModelRegistry) -> None:
        super().__init__(config)
        self._models, self._ignored = models, ignored_signals()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop accepting requests; uvicorn's own method would raise the signal again at the end."""
        if sig in self._ignored:
            return
        self._models.drain()
        self.should_exit = True


def serve(request: Mapping[str, Any], ready: Callable[[], None]) -> None:
    """Serve on the socket that the parent bound, until a signal; see ``run_child``."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvloop.run(_serve(request, ready))


async def _serve(request: Mapping[str, Any], ready: Callable[[], None]) -> None:
    options = ServerOptions(**request["options"])
    artifact, threads, keys = Path(request["artifact"]), request["threads"], request["keys"]
    application = build_application(artifact, options, threads, wait=False, keys=keys)
    models: ModelRegistry = application.state.models
    if options.candidate is not None:
        models.candidate = make_candidate(models, Path(options.candidate), options)
    server = GracefulServer(_uvicorn_config(application, options), models)
    serving = asyncio.create_task(server.serve(sockets=[socket.socket(fileno=request["socket"])]))
    reloading: asyncio.Task[None] | None = None
    try:
        await models.wait_until_loaded()
        ready()
        reloading = asyncio.create_task(_reload(models, request["report"]))
    finally:
        server.should_exit = server.should_exit or reloading is None
        await serving
    reloading.cancel()


def _uvicorn_config(application: Any, options: ServerOptions) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        loop="none",
        http=TimeoutHttpProtocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(IDLE_S),
        timeout_graceful_shutdown=math.ceil(options.drain_s),
    )


def make_candidate(models: ModelRegistry, folder: Path, options: ServerOptions) -> Candidate:
    """Create the candidate of the first model.

    Args:
        models: The models of the server.
        folder: Folder of the candidate's artifact.
        options: Options of the server.

    Raises:
        ArtifactError: The artifact has another task or other labels, or needs too much memory.
        OptionError: The task is generative.
    """
    artifact = load_artifact(folder.resolve())
    check_memory_for_second(artifact, models.first)
    # its own metrics, so that its passes do not count as the model's
    service = Service(artifact, replace(options, name=models.first.name), models.threads, Metrics())
    return Candidate(service, options, models.metrics)


async def _reload(models: ModelRegistry, pipe: int) -> None:
    """Serve the artifacts that the parent writes to stdin, one after another, and report each result."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    retiring = set[asyncio.Task[None]]()
    while line := await lines.readline():
        try:
            request = json.loads(line)
            task = await reload(models, Path(request["artifact"]), request["model"])
        except FastServeError as error:
            send_report(pipe, error_report(error))
            continue
        except Exception as error:  # the parent waits for a report
            log.error("a reload failed", exc_info=error)
            send_report(pipe, error_report(StageError(f"the reload failed: {type(error).__name__}: {error}")))
            continue
        if task is not None:
            retiring.add(task)
            task.add_done_callback(retiring.discard)
        send_report(pipe, {"changed": task is not None})


if __name__ == "__main__":
    run_child(serve)
