"""Parent side of Ray Serve: starts the process that runs Ray, with its own environment."""

from __future__ import annotations

import os
import random
import secrets
import site
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from fastserve_core.artifacts import expand_user
from fastserve_core.errors import OptionError
from fastserve_core.processes import thread_environment
from fastserve_ray_serve.haproxy import environment, find_haproxy
from fastserve_ray_serve.options import RayServeOptions
from fastserve_server.addresses import BindError, bind, local_url, warn_if_open
from fastserve_server.auth import key_hashes
from fastserve_server.model_registry import resolve_adapters, resolve_first, resolve_models
from fastserve_server.server import END_S, ServerProcess, launch

LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes Ray's own ports listen on 127.0.0.1 instead of every interface. A replica's internal port still listens on all
interfaces, and requires the token."""
PROXY_TIMEOUT = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
"""By default, Ray kills and restarts a proxy that takes longer than five seconds to start, as on a busy core."""
NON_EPHEMERAL_PORTS = range(20_000, 30_000)
"""Below the ports that the system assigns, so that no other process gets one by chance while Ray starts."""


def start(artifact: Path, options: RayServeOptions, cores: int) -> ServerProcess:
    """Start Ray Serve and wait until every replica answers.

    Args:
        artifact: Folder of the first model's artifact.
        options: Options of the server.
        cores: Number of cores that all replicas may use together.

    Raises:
        BindError: The port is in use, or the address is wrong.
        StageError: Ray or a replica failed to start.
        UserError: There are more threads than cores, or the API keys or an artifact cannot be used.
    """
    artifact, options = resolve_first(artifact, options)
    max_replicas = options.max_replicas or options.replicas
    threads = options.threads or max(1, cores // max_replicas)
    if threads * max_replicas > cores:
        raise OptionError(
            f"{options.where}: {max_replicas} replicas of {threads} threads are more than the {cores} usable cores"
        )
    keys = key_hashes(options.api_keys_file, f"{options.where}.api_keys_file")
    port = options.port or _free_port(options.host)
    with bind(options.host, port, options.where) as bound:
        if not keys:
            warn_if_open(bound, options.where)
    threads_per_worker = max(1, threads // (options.workers or threads))
    replica_options = asdict(options) | {
        "port": port,
        "models": resolve_models(options.models),
        "adapters": resolve_adapters(options.adapters),
    }
    if options.access_log is not None:  # replicas have another working directory
        replica_options["access_log"] = str(expand_user(options.access_log).absolute())
    folder = Path(tempfile.gettempdir(), f"fastserve-ray-{secrets.token_hex(4)}")
    request = {"artifact": str(artifact), "options": replica_options, "threads": threads, "cores": cores, "keys": keys}
    haproxy = find_haproxy()  # before Ray's environment names the wrapper script
    return launch(
        "fastserve_ray_serve.process",
        {**request, "folder": str(folder), "haproxy": haproxy},
        local_url(options.host, port),
        environment=thread_environment(threads_per_worker)
        | LOOPBACK_ONLY
        | PROXY_TIMEOUT
        | authentication()
        | own_home(folder)
        | environment(haproxy, folder, options.drain_s),
        patience_s=options.drain_s + 2 * END_S,
        kind=ServerProcess,
    )


def _free_port(host: str) -> int:
    """Return a free port of ``NON_EPHEMERAL_PORTS``."""
    for port in random.sample(NON_EPHEMERAL_PORTS, 100):
        with suppress(BindError):
            bind(host, port, "").close()
            return port
    raise BindError(f"no free port of {host} found in 100 attempts")


def own_home(folder: Path) -> dict[str, str]:
    """Return variables that make a folder the home of Ray's processes; packages of the user's home are still found."""
    return {"HOME": str(folder), "PYTHONUSERBASE": site.getuserbase()}


def authentication() -> dict[str, str]:
    """Return variables with a token for this Ray instance, unless the user's environment sets the mode.

    Without a token, Ray would write one to the home directory.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
