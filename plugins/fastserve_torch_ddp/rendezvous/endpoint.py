"""The rendezvous endpoint as seen from this machine: its address, and the local interface that leads to it."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass

import psutil

from fastserve_core.errors import UserError

OPTION = "train.torch_ddp.rdzv_endpoint"


@dataclass(frozen=True)
class Endpoint:
    """An endpoint and the route to it.

    Attributes:
        text: The endpoint as the user wrote it.
        address: Its IPv4 address.
        port: Its TCP port.
        is_local: Whether the address belongs to this machine.
        local: This machine's address on the route, at which the other nodes reach its ranks.
        interface: The network interface of ``local``.
    """

    text: str
    address: str
    port: int
    is_local: bool
    local: str
    interface: str


def find_endpoint(text: str) -> Endpoint:
    """Resolve the endpoint ``HOST:PORT`` and find the route to it.

    Raises:
        UserError: The endpoint is malformed, its host is unknown or loopback under another name, or there is no route.
    """
    host, port = _parse(text)
    address = _resolve(text, host)
    is_local = _is_own_address(address)
    local = address if is_local else _route_to(text, address, port)
    names = list_interfaces()
    if ipaddress.ip_address(address).is_loopback and not _is_loopback(host):
        others = ", ".join(f"{other} ({name})" for other, name in names.items() if not other.startswith("127."))
        raise UserError(
            f"{OPTION}={text}: on this machine '{host}' is the loopback address {address}, which no other machine "
            f"can reach: set the address itself; this machine has {others or 'no other'}"
        )
    return Endpoint(text, address, port, is_local, local, names.get(local, "lo" if local.startswith("127.") else ""))


def bind_interface(endpoint: Endpoint) -> None:
    """Make gloo and NCCL in this process use the interface that leads to the endpoint, unless the user set another."""
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", endpoint.interface)


def list_interfaces() -> dict[str, str]:
    """Return the name of the network interface of each IPv4 address of this machine."""
    return {
        address.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET
    }


def is_reachable(address: str, port: int, timeout_s: float) -> bool:
    """Return whether a program accepts connections at the address within ``timeout_s`` seconds."""
    try:
        socket.create_connection((address, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def _parse(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UserError(f"{OPTION} must be HOST:PORT with a port from 1 to 65535, e.g. 10.0.0.1:29500, not '{text}'")
    return host, int(port)


def _resolve(text: str, host: str) -> str:
    try:
        addresses = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"{OPTION}={text}: this machine does not know the host '{host}' as an IPv4 address ({error}): "
            "use its address, or add it to /etc/hosts"
        ) from error
    return str(addresses[0][4][0])


def _is_own_address(address: str) -> bool:
    """Return whether the address belongs to this machine, which can bind its own addresses only."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _route_to(text: str, address: str, port: int) -> str:
    """Return the local address of the route; connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, port))
        except OSError as error:
            raise UserError(f"{OPTION}={text}: this machine has no route to {address} ({error.strerror})") from error
        return str(probe.getsockname()[0])


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.")
