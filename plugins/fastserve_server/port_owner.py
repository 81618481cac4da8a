"""Which process listens on a port, as far as Linux lets this user see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
TABLES = ("net/tcp", "net/tcp6")
LISTENS = "0A"


def process_listening_on(port: int) -> str | None:
    """Its name and number; ``None`` where the system does not say: another's process, or another system."""
    wanted = {f"socket:[{inode}]" for inode in _listening(port)}
    for link in PROC.glob("[0-9]*/fd/*") if wanted else ():
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            if str(link.readlink()) in wanted:
                process = link.parent.parent
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return None


def _listening(port: int) -> Iterator[str]:
    """The inodes of the sockets that listen there."""
    for table in TABLES:
        with suppress(OSError):
            for line in (PROC / table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
