"""The parent's side: starts the process that owns Ray, and gives it an environment of its own."""

from __future__ import annotations

import os
import random
import secrets
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from fastserve_core.errors import InvalidOption
from fastserve_core.processes import thread_environment
from fastserve_ray_serve.haproxy import environment, find_haproxy
from fastserve_ray_serve.options import RayServeOptions
from fastserve_server.auth import key_hashes
from fastserve_server.model_registry import resolve_models
from fastserve_server.server import END_S, BadAddress, ServerProcess, bind, launch, url_of

LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's switch for machines that are no cluster: its own ports then listen on 127.0.0.1 rather than everywhere.
A replica's internal port still listens everywhere, and asks for the token."""
PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
"""Ray kills a proxy that has not started within five seconds, which takes longer on a busy core, and starts another."""


NON_EPHEMERAL_PORTS = range(20_000, 30_000)


def start(artifact: Path, options: RayServeOptions, cores: int) -> ServerProcess:
    """Start Ray Serve on an artifact; returns when every replica answers.

    ``cores`` are what all replicas together may use. Raises ``UserError`` (busy port, too many threads, no
    artifact) or ``StageFailed``.
    """
    most = options.max_replicas or options.replicas
    threads = options.threads or max(1, cores // most)
    if threads * most > cores:
        raise InvalidOption(
            f"{options.where}: {most} replicas of {threads} threads are more than the {cores} usable cores"
        )
    keys = key_hashes(options.api_keys_file, f"{options.where}.api_keys_file")
    port = options.port or _free_port(options.host)
    bind(options.host, port, options.where).close()
    each = max(1, threads // (options.workers or threads))
    taken = asdict(options) | {"port": port, "models": resolve_models(options.models)}
    if options.access_log is not None:  # a replica has another working folder
        taken["access_log"] = str(Path(options.access_log).expanduser().absolute())
    folder = Path(tempfile.gettempdir(), f"fastserve-ray-{secrets.token_hex(4)}")
    request = {"artifact": str(artifact), "options": taken, "threads": threads, "cores": cores, "keys": keys}
    haproxy = find_haproxy()  # before Ray is told of our starter, which it would find instead
    return launch(
        "fastserve_ray_serve.process",
        {**request, "folder": str(folder), "haproxy": haproxy},
        url_of(options.host, port),
        environment=thread_environment(each)
        | LOOPBACK_ONLY
        | PATIENCE
        | authentication()
        | environment(haproxy, folder, options.drain_s),
        patience_s=options.drain_s + 2 * END_S,
        kind=ServerProcess,
    )


def _free_port(host: str) -> int:
    """One below those that the system hands out: nobody gets it by chance while Ray starts."""
    for port in random.sample(NON_EPHEMERAL_PORTS, 100):
        with suppress(BadAddress):
            bind(host, port, "").close()
            return port
    raise BadAddress(f"none of a hundred ports of {host} is free")


def authentication() -> dict[str, str]:
    """A token for this Ray alone, unless the user decided: without one Ray writes one to the home folder."""
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
