"""Starts a server plugin for an artifact, outside a run."""

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
from fastserve_core.plugins.verbs import call_verb
from fastserve_core.processes.environment import set_library_environment
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.processes.streams import write_line
from fastserve_core.tasks.load import load_task

ArtifactResolvers = Mapping[str | None, Callable[[], Artifact]]
"""Functions that find the artifact of each served model, by name; the first model's key is ``None``."""


def serve_until_signal(server: RunningServer, model: str | Path, resolvers: ArtifactResolvers | None = None) -> None:
    """Wait for Ctrl-C or SIGTERM, then drain the server.

    Args:
        server: The running server.
        model: Name or folder of the model, for the message.
        resolvers: Functions that find the artifacts again. On SIGUSR1, a server that supports it reloads them.

    Raises:
        StageError: The server crashed.
    """
    if resolvers is not None and hasattr(server, "reload") and hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=_reload, args=(server, resolvers)).start())
    try:  # a signal may follow as soon as the line is printed
        write_line(sys.stdout, f"serving {model} at {server.url} (Ctrl-C ends it)")
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()


def _reload(server: Any, resolvers: ArtifactResolvers) -> None:
    """Reload the artifacts; on an error, print it and continue with the old artifact."""
    for name, find in resolvers.items():
        try:
            artifact = find()
            changed = server.reload(artifact.folder, *([] if name is None else [name]))
        except FastServeError as error:
            write_line(sys.stderr, f"not reloaded: {error}")
        except Exception as error:  # the thread must reload the other models
            write_line(sys.stderr, f"not reloaded: {type(error).__name__}: {error}")
        else:
            folder = artifact.folder
            write_line(sys.stdout, f"serving {folder} now" if changed else f"{folder} is already served")


def start_server(artifact: Artifact, plugin: str, options: Mapping[str, Any]) -> RunningServer:
    """Start a server.

    Args:
        artifact: The model.
        plugin: Name of the server plugin.
        options: Options of the plugin.

    Raises:
        StageError: The server failed to start.
        UserError: The plugin, an option or the port is wrong.
    """
    set_library_environment()
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
    server: RunningServer = call_verb(registry, active, "serve", context)
    return server
