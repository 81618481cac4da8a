"""Addresses that servers listen on."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys

from fastserve_core.errors import UserError
from fastserve_core.processes import write_line
from fastserve_server.auth import VARIABLE
from fastserve_server.port_owner import process_listening_on


class BindError(UserError):
    """The server cannot listen on its address."""


def bind(host: str, port: int, option_group: str) -> socket.socket:
    """Bind a TCP socket.

    Args:
        host: Name or address of an interface.
        port: The port; 0 for any free one.
        option_group: Prefix of the options in messages, as ``serve.server``.

    Raises:
        BindError: The port is in use, or the address is wrong.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
    except OSError as error:
        raise BindError(f"{option_group}.host={host}: {error.strerror or error}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            owner = process_listening_on(port)
            by = f" by {owner}" if owner else ""
            raise BindError(
                f"port {port} of {host} is taken{by}: stop that process, or choose another port with "
                f"{option_group}.port=PORT (0 takes any free one)"
            ) from error
        raise BindError(f"{option_group} cannot listen on port {port} of {host}: {error.strerror}") from error
    return bound


def warn_if_open(bound: socket.socket, option_group: str) -> None:
    """Print a warning if machines other than this one reach a server without API keys.

    Args:
        bound: Socket of the server.
        option_group: Prefix of the options in the message, as ``serve.server``.
    """
    host = ipaddress.ip_address(bound.getsockname()[0].partition("%")[0])  # without the scope of IPv6
    if not (getattr(host, "ipv4_mapped", None) or host).is_loopback:
        write_line(
            sys.stderr,
            f"warning: {host} accepts requests of other machines without an API key: "
            f"set {option_group}.api_keys_file or {VARIABLE}, or {option_group}.host=127.0.0.1",
        )


def local_url(host: str, port: int) -> str:
    """Return the URL at which clients on this machine reach a server that listens on ``host``."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
