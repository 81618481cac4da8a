"""The store: results by the hash of what they were made from; claimed, made aside, published by one rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from filelock import FileLock, Timeout

from fastserve_core.artifacts.files import fsync_dir
from fastserve_core.errors import StoreError, wrap_write_errors

KEY_LENGTH = 16
RESULTS, LOCKS = "store", "locks"


def default_home() -> Path:
    """``FASTSERVE_HOME``, else ``.fastserve`` in the working directory."""
    return Path(os.environ.get("FASTSERVE_HOME") or ".fastserve").expanduser().absolute()


def resolve_home(result: Path) -> Path:
    """The home of the store that a result is in, also while it is made; the default one for any other folder."""
    homes = (one for one in result.absolute().parents if (one / RESULTS).is_dir() and (one / LOCKS).is_dir())
    return next(homes, None) or default_home()


@dataclass
class Claim:
    """The right to make one result: ``partial`` survives a kill, ``publish`` makes it the result."""

    final: Path
    partial: Path

    @property
    def published(self) -> bool:
        return self.final.is_dir()

    def publish(self, folder: Path | None = None) -> Path:
        """Rename the partial folder, or the one folder in it that is the result, to its final place.

        Raises ``StoreError`` when the disk is full; nothing half-written is then visible.
        """
        made = folder or self.partial
        with wrap_write_errors(f"the result {self.final.name}", self.final.parent):
            fsync_dir(made)
            made.rename(self.final)
            handle = os.open(self.final.parent, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        return self.final


class Store:
    """A folder of immutable results, safe with several processes."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def downloads_dir(self) -> Path:
        return self.home / "downloads"

    def find(self, name: str) -> Path | None:
        """The published result of that name, if there is one."""
        path = self.home / RESULTS / name
        return path if path.is_dir() else None

    def results(self, stage: str, plugin: str) -> list[Path]:
        """Every published result of a plugin."""
        return sorted((self.home / RESULTS).glob(f"{stage}-{plugin}-*"))

    @contextmanager
    def claim(self, name: str, waiting: Callable[[str], None] = lambda _: None) -> Iterator[Claim]:
        """Hold the result's lock; a second process or thread waits here until the first is done.

        The lock is the operating system's, so a killed process leaves none behind.
        """
        claim = Claim(self.home / RESULTS / name, self.home / "partial" / name)
        with wrap_write_errors("the store", self.home):
            for folder in (claim.final.parent, claim.partial.parent, self.home / LOCKS):
                folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=claim.partial.parent, prefix=".probe-"):
                pass
        lock = FileLock(self.home / LOCKS / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting(f"another process is making {name}; waiting for it")
            lock.acquire()
        try:
            claim.partial.mkdir(parents=True, exist_ok=True)
            yield claim
        finally:
            if claim.published:
                shutil.rmtree(claim.partial, ignore_errors=True)
            lock.release()

    def check_space(self, needed: int) -> None:
        """Raise ``StoreError`` when the store's disk has fewer free bytes than needed."""
        folder = next(path for path in (self.home, *self.home.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise StoreError(
                f"the disk of {self.home} has {free / 1e9:.2f} GB free, and this run needs about "
                f"{needed / 1e9:.2f} GB: free some, or set FASTSERVE_HOME to another disk"
            )


def result_id(stage: str, plugin: str, key: str) -> str:
    """``<stage>-<plugin>-<key>``, the folder's name in the store."""
    return f"{stage}-{plugin}-{key[:KEY_LENGTH]}"
