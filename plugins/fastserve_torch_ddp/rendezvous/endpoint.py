"""Where the nodes meet, as this machine sees it: the address, whether it is ours, and our own way towards it."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import os
import socket
import struct
from dataclasses import dataclass

from fastserve_core.errors import UserError

OPTION = "train.torch_ddp.rdzv_endpoint"
SIOCGIFCONF = 0x8912
"""Linux's request for every interface that has an IPv4 address, netdevice(7)."""
RECORD = 40
"""Bytes of one ``struct ifreq``: 16 of the name, then a socket address with the four bytes of IPv4 at 20."""


@dataclass(frozen=True)
class Endpoint:
    """``text`` is what the user wrote; ``here`` says that the address is one of this machine's.

    ``local`` is this machine's address on the way there, which the other nodes use to reach its ranks, and
    ``interface`` the network interface that has it.
    """

    text: str
    address: str
    port: int
    here: bool
    local: str
    interface: str


def find_endpoint(text: str) -> Endpoint:
    """The endpoint ``HOST:PORT``; raises ``UserError`` when it is malformed, unknown or cannot be reached from here."""
    host, port = _parse(text)
    address = _resolve(text, host)
    here = _is_ours(address)
    local = address if here else _route_to(text, address, port)
    names = interfaces()
    if ipaddress.ip_address(address).is_loopback and not _is_loopback(host):
        others = ", ".join(f"{one} ({name})" for one, name in names.items() if not one.startswith("127."))
        raise UserError(
            f"{OPTION}={text}: on this machine '{host}' is the loopback address {address}, at which no other machine "
            f"reaches it: give the address itself; this machine has {others or 'no other'}"
        )
    return Endpoint(text, address, port, here, local, names.get(local, "lo" if local.startswith("127.") else ""))


def bind_interface(endpoint: Endpoint) -> None:
    """Have gloo and NCCL in this process use the interface that leads to the endpoint; what is already set stays."""
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", endpoint.interface)


def interfaces() -> dict[str, str]:
    """The name of the interface of each IPv4 address of this machine."""
    space = array.array("B", bytes(256 * RECORD))
    start, size = space.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked.fileno(), SIOCGIFCONF, struct.pack("iP", size, start))
    used = struct.unpack("iP", answer)[0]
    records = [space[first : first + RECORD].tobytes() for first in range(0, used, RECORD)]
    return {socket.inet_ntoa(one[20:24]): one[:16].split(b"\0", 1)[0].decode() for one in records}


def reachable(address: str, port: int, seconds: float) -> bool:
    """Whether someone accepts connections there."""
    try:
        socket.create_connection((address, port), timeout=seconds).close()
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
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"{OPTION}={text}: this machine does not know the host '{host}' as an IPv4 address ({error}): "
            "give its address, or name it in /etc/hosts"
        ) from error
    return str(found[0][4][0])


def _is_ours(address: str) -> bool:
    """A machine can bind its own addresses only."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
        try:
            tried.bind((address, 0))
        except OSError:
            return False
    return True


def _route_to(text: str, address: str, port: int) -> str:
    """Connecting a datagram socket sends nothing; the system only chooses the way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
        try:
            tried.connect((address, port))
        except OSError as error:
            raise UserError(f"{OPTION}={text}: this machine has no way to {address} ({error.strerror})") from error
        return str(tried.getsockname()[0])


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.")
