"""A lock on the folder of a run while the run is in progress: it ends with the process, however that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE = ".running.lock"


@contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Mark the run of a folder as in progress inside the context."""
    path = folder / LOCK_FILE
    with FileLock(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_in_progress(folder: Path) -> bool:
    """Return whether a process executes the run of a folder; it is if that cannot be decided."""
    path = folder / LOCK_FILE
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True
