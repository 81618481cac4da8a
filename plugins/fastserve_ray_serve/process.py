"""The process that owns Ray: ``python -m fastserve_ray_serve.process``, started by ``fastserve_ray_serve.server``."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import ray
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.config import HTTPOptions

from fastserve_core.artifacts import load_artifact
from fastserve_core.errors import StageFailed
from fastserve_ray_serve.deployment import bind_application
from fastserve_ray_serve.haproxy import write_starter
from fastserve_ray_serve.options import RayServeOptions
from fastserve_server.child import run_child

NAME = "fastserve"
OBJECT_STORE_BYTES = 100_000_000
"""Requests go past Ray's object store, which would otherwise take a third of the memory."""


def serve(request: Mapping[str, Any], ready: Callable[[], None]) -> None:
    """Serve until a signal; Ray and all its processes end with this function."""
    options = RayServeOptions(**request["options"])
    artifact = Path(request["artifact"])
    load_artifact(artifact)  # its faults are said better here than by a replica
    with _session_dir(Path(request["folder"])) as folder:
        try:
            write_starter(request["haproxy"], folder)
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
            ended = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: ended.set())
            ready()
            ended.wait()
            for stream in (1, 2):  # Ray reports its own controller's end as an error
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        finally:
            if os.getppid() != request["parent"]:
                _end_at_once(folder)
            _shutdown()


@contextmanager
def _session_dir(folder: Path) -> Iterator[Path]:
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(application: Application) -> None:
    try:
        ray_serve.run(application, name=NAME, route_prefix="/")
    except RuntimeError as error:
        said = [one.message for one in ray_serve.status().applications[NAME].deployments.values()]
        reasons = [message.strip().rpartition("\n")[2] for message in said]
        raise StageFailed(f"the replicas could not be started: {' '.join(reasons)}") from error


def _end_at_once(folder: Path) -> NoReturn:
    """For an orphan, which has a few seconds: Ray's agents would outlive it by more than a minute."""
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # the session that our parent gave us; Ray's workers follow their raylet
    raise SystemExit


def _shutdown() -> None:
    """Let the replicas drain, then end every process of Ray."""
    if ray.is_initialized():
        ray_serve.delete(NAME)
        ray_serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    run_child(serve)
