"""Starts a server plugin on one artifact, outside a run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve_core.artifact import Artifact
from fastserve_core.predictor import load_task
from fastserve_core.quiet import quiet_environment
from fastserve_core.registry import Registry
from fastserve_core.run import Run, Server
from fastserve_core.threads import threads_per_process


def serve_until_signal(server: Server, model: Path) -> None:
    """Wait for Ctrl-C or SIGTERM, which are how a server is ended; then drain it."""
    print(f"serving {model} at {server.url} (Ctrl-C ends it)", flush=True)
    try:
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()


def start_server(artifact: Artifact, plugin: str, options: Mapping[str, Any]) -> Server:
    """The running server; raises ``UserError`` for a wrong plugin, option or port."""
    quiet_environment()
    registry = Registry()
    active = registry.activate("serve", plugin, options)
    manifest = artifact.manifest
    run = Run(
        model=artifact,
        task=load_task(manifest.task, manifest.task_options, manifest.labels),
        folder=Path(tempfile.gettempdir()),
        seed=0,
        threads=threads_per_process(),
        emit=registry.tell,
    )
    server: Server = registry.call(active, "serve", run=run)
    return server
