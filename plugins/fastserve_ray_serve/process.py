"""The process that runs Ray: ``python -m fastserve_ray_serve.process``, started by ``fastserve_ray_serve.server``."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil
import ray
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.config import HTTPOptions

from fastserve_core.artifacts import load_artifact
from fastserve_core.errors import StageError
from fastserve_core.processes import ignored_signals
from fastserve_ray_serve.deployment import bind_application
from fastserve_ray_serve.haproxy import config_path, write_wrapper
from fastserve_ray_serve.options import RayServeOptions
from fastserve_server.child import run_child

NAME = "fastserve"
CLUSTER_CONFIG = "ray_bootstrap_config.yaml"
"""A file in the home folder; without it Ray asks the metadata servers of three clouds for the place of the cluster."""
OBJECT_STORE_BYTES = 100_000_000
"""Requests do not use Ray's object store, which would take a third of the memory by default."""


def serve(request: Mapping[str, Any], ready: Callable[[], None]) -> None:
    """Serve until a signal, then end Ray and all its processes; see ``run_child``."""
    options = RayServeOptions(**request["options"])
    artifact, ignored = Path(request["artifact"]), ignored_signals()
    load_artifact(artifact)  # its errors are clearer here than from a replica
    with _session_dir(Path(request["folder"])) as folder:
        try:
            write_wrapper(request["haproxy"], folder)
            ray.init(
                address="local",
                num_cpus=request["cores"],
                namespace=NAME,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
            )
            ray_serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(host=options.host, port=options.port))
            _run(bind_application(artifact, options, request["threads"], request["keys"]))
            signalled = threading.Event()
            for signal_number in {signal.SIGTERM, signal.SIGINT} - ignored:
                signal.signal(signal_number, lambda *_: signalled.set())
            ready()
            signalled.wait()
            drain_proxy(folder, options.drain_s)
            for stream in (1, 2):  # Ray reports its own controller's end as an error
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        finally:
            if os.getppid() != request["parent"]:
                _kill_session(folder)
            _shutdown()


@contextmanager
def _session_dir(folder: Path) -> Iterator[Path]:
    folder.mkdir(mode=0o700)
    (folder / CLUSTER_CONFIG).write_text("{}\n", encoding="utf-8")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(application: Application) -> None:
    try:
        ray_serve.run(application, name=NAME, route_prefix="/")
    except RuntimeError as error:
        deployments = ray_serve.status().applications[NAME].deployments.values()
        reasons = [deployment.message.strip().rpartition("\n")[2] for deployment in deployments]
        raise StageError(f"the replicas could not be started: {' '.join(reasons)}") from error


def _kill_session(folder: Path) -> NoReturn:
    """End at once after the parent has died; otherwise Ray's agents would run for more than a minute."""
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # our own session; Ray's workers end with their raylet
    raise SystemExit


def drain_proxy(folder: Path, drain_s: float) -> None:
    """Let HAProxy answer the open requests and end; without it, Ray's own proxy drains.

    Ray kills HAProxy as soon as the replicas have ended, whether or not it has forwarded their responses.

    Args:
        folder: Folder of the session, with HAProxy's configuration.
        drain_s: Maximum number of seconds.
    """
    config = str(config_path(folder))
    proxies = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            if config in process.cmdline():
                process.send_signal(signal.SIGUSR1)  # accept no more connections, and end after the open requests
                proxies.append(process)
    psutil.wait_procs(proxies, timeout=drain_s)


def _shutdown() -> None:
    """Drain the replicas, then end all processes of Ray."""
    if ray.is_initialized():
        ray_serve.delete(NAME)
        ray_serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    run_child(serve)
