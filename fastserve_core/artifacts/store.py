"""The store of results, addressed by the hash of their inputs and published by one rename."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp

from filelock import FileLock, Timeout

from fastserve_core.artifacts.checksums import find_damage, write_checksums
from fastserve_core.artifacts.files import apply_umask, expand_user, fsync_dir
from fastserve_core.errors import StoreError, wrap_write_errors

KEY_LENGTH = 16
RESULTS, LOCKS, DAMAGED = "store", "locks", "damaged"


def default_home() -> Path:
    """Return ``FASTSERVE_HOME``, else ``.fastserve`` in the working directory."""
    return expand_user(os.environ.get("FASTSERVE_HOME") or ".fastserve").absolute()


def resolve_home(result: Path) -> Path:
    """Return the home of the store that holds a finished or partial result; the default home for other folders."""
    for home in result.absolute().parents:
        if (home / RESULTS).is_dir() and (home / LOCKS).is_dir():
            return home
    return default_home()


@dataclass
class Claim:
    """The exclusive right to make one result.

    Attributes:
        final: The folder of the published result.
        partial: The folder to work in, which survives a kill.
        checksums: The file with the checksums of the published result.
    """

    final: Path
    partial: Path
    checksums: Path

    @property
    def is_published(self) -> bool:
        """Whether the result is published."""
        return self.final.is_dir()

    def find_damage(self) -> str:
        """Return the fault of the published result, or an empty string."""
        return find_damage(self.final, self.checksums)

    def publish(self, folder: Path | None = None) -> Path:
        """Publish the result by renaming its folder.

        Args:
            folder: A folder in the partial folder; by default the partial folder itself.

        Returns:
            The folder of the published result.

        Raises:
            StoreError: The disk is full; no incomplete result is published.
        """
        source = folder or self.partial
        with wrap_write_errors(f"the result {self.final.name}", self.final.parent):
            apply_umask(source)
            write_checksums(source, self.checksums)
            fsync_dir(source)
            source.rename(self.final)
            handle = os.open(self.final.parent, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        return self.final


class Store:
    """A folder of immutable results, safe for concurrent processes.

    A result is compared with its checksums when a process first uses it. A damaged one counts as missing: it is moved
    to the folder ``damaged`` and made again.

    Attributes:
        home: The folder.
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def downloads_dir(self) -> Path:
        """The folder of downloaded files."""
        return self.home / "downloads"

    def find(self, name: str) -> Path | None:
        """Find a published result.

        Args:
            name: Its ``result_id``.

        Returns:
            Its folder, or ``None`` if there is none or it is damaged.
        """
        claim = self._claim(name)
        return claim.final if claim.is_published and not claim.find_damage() else None

    def results(self, stage: str, plugin: str) -> list[Path]:
        """List the folders of all published results of a plugin; unlike with ``find``, they may be damaged."""
        return sorted((self.home / RESULTS).glob(f"{stage}-{plugin}-*"))

    @contextmanager
    def claim(
        self, name: str, warn: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
    ) -> Iterator[Claim]:
        """Hold the lock of a result in this context; a second process or thread waits for the first.

        The lock is the operating system's, so that a killed process leaves none behind. A published result does not
        change and needs no lock, so that a store that cannot be written still provides the results that it has.

        Args:
            name: The result's ``result_id``.
            warn: Called with a message about a damaged result, and before waiting for another process.

        Raises:
            StoreError: The store cannot be written.
        """
        claim = self._claim(name)
        if self.find(name) is not None:
            self._remove_leftover(claim)
            yield claim
            return
        lock = self._acquire_lock(claim, warn)
        try:
            self._set_aside_if_damaged(claim, warn)
            claim.partial.mkdir(parents=True, exist_ok=True)
            yield claim
        finally:
            if claim.is_published:
                shutil.rmtree(claim.partial, ignore_errors=True)
            lock.release()

    def _claim(self, name: str) -> Claim:
        return Claim(self.home / RESULTS / name, self.home / "partial" / name, self.home / "checksums" / f"{name}.json")

    def _lock(self, claim: Claim) -> FileLock:
        return FileLock(self.home / LOCKS / f"{claim.final.name}.lock")

    def _acquire_lock(self, claim: Claim, warn: Callable[[str], None]) -> FileLock:
        with wrap_write_errors("the store", self.home):
            for folder in (claim.final.parent, claim.partial.parent, self.home / LOCKS):
                folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=claim.partial.parent, prefix=".probe-"):
                pass
        lock = self._lock(claim)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            warn(f"another process is making {claim.final.name}; waiting for it")
            lock.acquire()
        return lock

    def _remove_leftover(self, claim: Claim) -> None:
        """Remove the partial folder that a kill right after the publication left."""
        if claim.partial.exists():
            with suppress(OSError, Timeout), self._lock(claim).acquire(timeout=0):
                shutil.rmtree(claim.partial, ignore_errors=True)

    def _set_aside_if_damaged(self, claim: Claim, warn: Callable[[str], None]) -> None:
        if not claim.is_published or not (damage := claim.find_damage()):
            return
        folder = self.home / DAMAGED
        with wrap_write_errors("the damaged result", folder):
            folder.mkdir(exist_ok=True)
            target = Path(mkdtemp(dir=folder, prefix=f"{claim.final.name}-"), claim.final.name)
            claim.final.rename(target)
        warn(f"{claim.final} is damaged: {damage}; it was moved to {target} and is made again")

    def check_space(self, needed: int) -> None:
        """Check the free space on the store's disk.

        Args:
            needed: Bytes.

        Raises:
            StoreError: Fewer bytes are free.
        """
        folder = next(path for path in (self.home, *self.home.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise StoreError(
                f"the disk of {self.home} has {free / 1e9:.2f} GB free, but this run needs about "
                f"{needed / 1e9:.2f} GB: free some, or set FASTSERVE_HOME to another disk"
            )


def result_id(stage: str, plugin: str, key: str) -> str:
    """Return the name of a result's folder in the store: ``<stage>-<plugin>-<key>``, with the key shortened."""
    return f"{stage}-{plugin}-{key[:KEY_LENGTH]}"
