"""A lock on the folder of a run while the run is in progress: it ends with the process, however that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fastserve_core.errors import PlanError, wrap_write_errors

LOCK_FILE = ".running.lock"


WAIT_SECONDS = 2.0
"""A command that lists the runs holds the lock for a moment."""


@contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Mark the run of a folder as in progress inside the context.

    Raises:
        PlanError: Another run in this folder is in progress.
        StoreError: The folder cannot be written.
    """
    path = folder / LOCK_FILE
    lock = FileLock(path)
    with wrap_write_errors("the lock of the run", folder):
        try:
            lock.acquire(timeout=WAIT_SECONDS)
        except Timeout as error:
            raise PlanError(f"another run is in progress in {folder}: set another hydra.run.dir") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


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
