"""Lookup of the process that listens on a port, as far as Linux shows it to this user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
TABLES = ("net/tcp", "net/tcp6")
LISTEN_STATE = "0A"


def process_listening_on(port: int) -> str | None:
    """Return the name and id of the process that listens on a port.

    Returns:
        ``"NAME (process ID)"``, or ``None`` if it belongs to another user or the system does not show it.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for link in PROC.glob("[0-9]*/fd/*") if sockets else ():
        with suppress(OSError):  # the process has ended, or belongs to another user
            if str(link.readlink()) in sockets:
                process = link.parent.parent
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on a port."""
    for table in TABLES:
        with suppress(OSError):
            for line in (PROC / table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN_STATE and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
