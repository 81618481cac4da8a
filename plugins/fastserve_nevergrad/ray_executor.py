"""Trials as tasks of a Ray cluster: a running one, or a local one on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from fastserve_core.errors import MissingPackageError, StageError, TransientError
from fastserve_core.pipeline import run_remote_trial
from fastserve_core.processes import usable_cores
from fastserve_nevergrad.workers import RemoteExecutor

ADDRESS_VARIABLE = "RAY_ADDRESS"
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Disables Ray's usage reports, unless the user enabled them."""
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
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    cores = usable_cores()
    local = {"num_cpus": cores, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    address = os.environ.get(ADDRESS_VARIABLE)
    arguments = {} if address else local
    try:
        if (url := urlsplit(address if "//" in (address or "") else f"//{address}")).port:
            socket.create_connection((str(url.hostname), url.port), CONNECT_SECONDS).close()  # Ray retries for minutes
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **arguments)
    except (OSError, RuntimeError, ValueError) as error:
        raise StageError(f"no Ray cluster answers at {ADDRESS_VARIABLE}={address}: {error}") from error
    try:
        node_cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        task_cores = min(cores, max(node_cores))
        task = ray.remote(num_cpus=task_cores, max_retries=1)(run_remote_trial)
        count = max(1, sum(available // task_cores for available in node_cores))
        yield count, lambda request: _run_task(ray, task, {**request, "threads": task_cores})
    finally:
        ray.shutdown()


def _run_task(ray: Any, task: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a training and wait for it; it fails if its machine is lost twice."""
    try:
        result: dict[str, Any] = ray.get(task.remote(request))
    except ray.exceptions.RayError as error:
        raise TransientError(f"the training was lost: {str(error).strip().splitlines()[0]}") from error
    return result
