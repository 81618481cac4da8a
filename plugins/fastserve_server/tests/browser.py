"""A real Chromium for the tests of pages: the one on the PATH, or else one from the package index."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "@sparticuz/chromium@147"
"""It carries the browser and the libraries that a bare machine lacks."""
UNPACK = """
const fs = require("fs"), zlib = require("zlib");
for (const name of ["chromium", "al2023.tar"])
  fs.writeFileSync(name, zlib.brotliDecompressSync(fs.readFileSync(`package/bin/${name}.br`)));
"""
NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Chromium:
    program: str
    libraries: str | None = None
    """A folder for LD_LIBRARY_PATH."""


def find_chromium(folder: Path) -> Chromium | None:
    """Fetched into the folder where none is installed; ``None`` without npm, which fetches and unpacks it."""
    installed = next(filter(None, map(shutil.which, NAMES)), None)
    if installed is not None:
        return Chromium(installed)
    if shutil.which("npm") is None or shutil.which("node") is None:
        return None
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as packed:
        packed.extractall(folder, filter="data")
    subprocess.run(["node", "-e", UNPACK], cwd=folder, check=True)
    with tarfile.open(folder / "al2023.tar") as libraries:
        libraries.extractall(folder, filter="data")
    (folder / "chromium").chmod(0o755)
    return Chromium(str(folder / "chromium"), str(folder / "lib"))
