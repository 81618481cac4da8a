"""Trials as tasks of a Ray cluster: one that runs already, or else one of this machine alone."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from fastserve_core.errors import MissingPackage, StageFailed
from fastserve_core.pipeline import run_remote_trial
from fastserve_core.processes import usable_cores
from fastserve_nevergrad.workers import RemoteExecutor

ADDRESS = "RAY_ADDRESS"
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0"}
"""No report of the use to Ray's makers."""
OBJECT_STORE_BYTES = 100_000_000
CONNECT_S = 10.0


@contextmanager
def ray_executor() -> Iterator[tuple[int, RemoteExecutor]]:
    """How many trainings fit at once, and what has one done: each takes as many cores as this machine has.

    ``RAY_ADDRESS`` says which cluster. Raises ``MissingPackage``, and ``StageFailed`` where it cannot be reached.
    """
    if find_spec("ray") is None:
        raise MissingPackage(
            "tune.nevergrad.workers=ray needs the package ray: pip install 'fastserve-core[ray_serve]'"
        )
    os.environ.update({name: value for name, value in SETTINGS.items() if name not in os.environ})
    import ray

    cores = usable_cores()
    own = {"num_cpus": cores, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    address = os.environ.get(ADDRESS)
    try:
        if (there := urlsplit(address if "//" in (address or "") else f"//{address}")).port:
            socket.create_connection((str(there.hostname), there.port), CONNECT_S).close()  # Ray would try for minutes
        ray.init(
            address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **({} if address else own)
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise StageFailed(f"no Ray cluster answers at {ADDRESS}={address}: {error}") from error
    try:
        nodes = [int(one["Resources"].get("CPU", 0)) for one in ray.nodes() if one["Alive"]]
        each = min(cores, max(nodes))
        task = ray.remote(num_cpus=each, max_retries=1)(run_remote_trial)
        yield max(1, sum(one // each for one in nodes)), lambda order: _done(ray, task, {**order, "threads": each})
    finally:
        ray.shutdown()


def _done(ray: Any, task: Any, order: Mapping[str, Any]) -> dict[str, Any]:
    """Wait for a training; one whose machine was lost twice failed."""
    try:
        found: dict[str, Any] = ray.get(task.remote(order))
    except ray.exceptions.RayError as error:
        raise StageFailed(f"the training was lost: {str(error).strip().splitlines()[0]}") from error
    return found
