"""Refuses every socket that leaves loopback, in this interpreter."""

from __future__ import annotations

import ipaddress
import os
import sys
from typing import Any

WATCHED = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}


class LoopbackError(RuntimeError):
    """A test tried to reach another machine."""


def refuse_other_sockets() -> None:
    """Install an audit hook, which Python code cannot go round and nobody can take away again."""
    sys.addaudithook(_look)


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in WATCHED or os.environ.get("FASTSERVE_TESTS_ONLINE"):
        return
    address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
    host = address[0] if isinstance(address, tuple) else address
    if not _is_local(host):
        raise LoopbackError(f"{event} to {address!r}: tests stay on loopback")


def _is_local(host: Any) -> bool:
    if host is None or isinstance(host, bytes) or str(host).startswith(("/", "\0")) or host in ("", "localhost"):
        return True  # a Unix socket, or this machine
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return str(host) == os.uname().nodename  # a machine may ask for its own name
    return address.is_loopback or address.is_unspecified
