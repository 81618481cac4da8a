"""Starts a server plugin on one artifact, outside a run."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.errors import FastServeError
from fastserve_core.plugins.contexts import ServeContext
from fastserve_core.plugins.registry import Registry
from fastserve_core.plugins.requests import RunningServer
from fastserve_core.processes.environment import library_environment
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.tasks.load import load_task

ArtifactResolvers = Mapping[str | None, Callable[[], Artifact]]
"""What finds the artifact of each model that is served, by its name; the first one's is ``None``."""


def serve_until_signal(server: RunningServer, model: str | Path, again: ArtifactResolvers | None = None) -> None:
    """Wait for Ctrl-C or SIGTERM, which are how a server is ended; then drain it.

    At SIGUSR1 the server is given what ``again`` finds, where it can take another artifact while it runs.
    """
    if again is not None and hasattr(server, "reload") and hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=_reload, args=(server, again)).start())
    print(f"serving {model} at {server.url} (Ctrl-C ends it)", flush=True)
    try:
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()


def _reload(server: Any, again: ArtifactResolvers) -> None:
    """A fault is said, and the server goes on with what it has."""
    for name, find in again.items():
        try:
            artifact = find()
            changed = server.reload(artifact.folder, *([] if name is None else [name]))
        except FastServeError as error:
            print(f"not reloaded: {error}", file=sys.stderr, flush=True)
            continue
        print(f"serving {artifact.folder} now" if changed else f"{artifact.folder} is served already", flush=True)


def start_server(artifact: Artifact, plugin: str, options: Mapping[str, Any]) -> RunningServer:
    """The running server; raises ``UserError`` for a wrong plugin, option or port."""
    library_environment()
    registry = Registry()
    active = registry.activate("serve", plugin, options)
    manifest = artifact.manifest
    context = ServeContext(
        model=artifact,
        task=load_task(manifest.task, manifest.task_options, manifest.labels),
        folder=Path(tempfile.gettempdir()),
        seed=0,
        threads=threads_per_process(),
        emit=registry.notify,
    )
    server: RunningServer = registry.call(active, "serve", run=context)
    return server
