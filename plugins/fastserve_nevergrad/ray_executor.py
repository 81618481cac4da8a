"""Trials as tasks of a Ray cluster: a running one, or a local one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import site
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastserve_core.errors import MissingPackageError, StageError, TransientError
from fastserve_core.pipeline import run_remote_trial
from fastserve_core.processes import usable_cores
from fastserve_nevergrad.workers import RemoteExecutor

ADDRESS_VARIABLE = "RAY_ADDRESS"
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes a local cluster listen on 127.0.0.1; otherwise Ray looks for the route to an address on the internet."""
CLUSTER_CONFIG = "ray_bootstrap_config.yaml"
"""A file in the home folder; without it Ray asks the metadata servers of three clouds for the place of the cluster."""
OBJECT_STORE_BYTES = 100_000_000
CONNECT_SECONDS = 10.0


@contextmanager
def ray_executor() -> Iterator[tuple[int, RemoteExecutor]]:
    """Connect to the Ray cluster at ``RAY_ADDRESS``, or start a local one.

    Each training takes as many cores as this machine has.

    Yields:
        The number of trainings that the cluster can run at once, and the function that runs one.

    Raises:
        MissingPackageError: Ray is not installed.
        StageError: The cluster cannot be reached.
    """
    if find_spec("ray") is None:
        raise MissingPackageError(
            "tune.nevergrad.workers=ray needs the package ray: pip install 'fastserve-core[ray_serve]'"
        )
    address = os.environ.get(ADDRESS_VARIABLE)
    with _keep_process(), _connect(address) if address else _start_local() as ray:
        node_cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        task_cores = min(usable_cores(), max(node_cores))
        task = ray.remote(num_cpus=task_cores, max_retries=1)(run_remote_trial)
        count = max(1, sum(available // task_cores for available in node_cores))
        yield count, lambda request: _run_task(ray, task, {**request, "threads": task_cores})


@contextmanager
def _connect(address: str) -> Iterator[Any]:
    """Connect to a running cluster, and disconnect at the end."""
    import ray

    try:
        if (url := urlsplit(address if "//" in address else f"//{address}")).port:
            socket.create_connection((str(url.hostname), url.port), CONNECT_SECONDS).close()  # Ray retries for minutes
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise StageError(f"no Ray cluster answers at {ADDRESS_VARIABLE}={address}: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _start_local() -> Iterator[Any]:
    """Start a cluster on this machine, with its files in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="fastserve-ray-", ignore_cleanup_errors=True) as folder:
        Path(folder, CLUSTER_CONFIG).write_text("{}\n", encoding="utf-8")
        home = {"HOME": folder, "PYTHONUSERBASE": site.getuserbase()}
        with _set_environment(LOOPBACK_ONLY | home):
            import ray

            try:
                ray.init(
                    address="local",
                    num_cpus=usable_cores(),
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=folder,
                )
            except (OSError, RuntimeError, ValueError) as error:
                raise StageError(f"no local Ray cluster could be started: {error}") from error
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _keep_process() -> Iterator[None]:
    """Undo Ray's changes of this process: environment variables, ``sys.path``, and the handler of SIGTERM."""
    environment, path, handler = dict(os.environ), list(sys.path), signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _set_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables in this context."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run_task(ray: Any, task: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a training and wait for it; it fails if its machine is lost twice."""
    try:
        result: dict[str, Any] = ray.get(task.remote(request))
    except ray.exceptions.RayError as error:
        raise TransientError(f"the training was lost: {str(error).strip().splitlines()[0]}") from error
    return result
