"""Writes the pinned requirements with hashes, and the table of dependencies: ``make requirements``.

uv resolves ``[all]`` within ``constraints.txt``, for Linux on x86-64 and Python 3.11. It reads its own variables:
``UV_FIND_LINKS`` or ``UV_INDEX`` must name a place of torch's build for CPUs. Licences are those of the packages that
are installed beside this program.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "requirements"
TABLE = ROOT / "docs" / "reference" / "dependencies.md"
UV = [
    *(str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--python-version", "3.11"),
    *("--python-platform", "x86_64-manylinux_2_28", "--no-annotate", "--no-header", "--no-emit-index-url"),
    *("--constraints", str(ROOT / "constraints.txt")),
]
HEADER = """\
# Written by `make requirements`: do not edit. {content}
# For Linux on x86-64 and Python 3.11.
"""
FILES = {
    FOLDER / "all.txt": (
        ["--extra", "all", str(ROOT / "pyproject.toml")],
        "FastServe's [all] with the hash of every file; torch is the build for CPUs.",
    ),
    FOLDER / "build.txt": (
        [str(FOLDER / "build.in")],
        "The packages that build FastServe and the source distributions of all.txt.",
    ),
    ROOT / "fastserve_core" / "models" / "build-requirements.txt": (
        [str(FOLDER / "download.in")],
        "The packages that pip needs to download a source distribution.",
    ),
}
CLASSIFIER = "License :: "
MAX_LICENCE_LENGTH = 60


def main() -> None:
    """Write all files."""
    for path, (arguments, content) in FILES.items():
        path.write_text(HEADER.format(content=content) + compile_requirements(arguments), encoding="utf-8")
    TABLE.write_text(make_page(resolve_packages()), encoding="utf-8")


def compile_requirements(arguments: list[str]) -> str:
    """Return the requirements with hashes."""
    return subprocess.run([*UV, "--generate-hashes", *arguments], capture_output=True, text=True, check=True).stdout


def resolve_packages() -> list[dict[str, Any]]:
    """Return the packages of ``[all]`` as a lock file lists them, with the time of each file."""
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder, "pylock.toml")
        arguments = FILES[FOLDER / "all.txt"][0]
        subprocess.run([*UV, "--format", "pylock.toml", "--output-file", str(lock), *arguments], check=True)
        packages: list[dict[str, Any]] = tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]
    return packages


def make_page(packages: list[dict[str, Any]]) -> str:
    """Return the page with the table."""
    rows = [(package["name"], package["version"], find_date(package), find_licence(package)) for package in packages]
    copyleft = [f"`{name}` ({licence})" for name, _, _, licence in rows if "GPL" in licence]
    lines = [
        "<!-- written by `make requirements`: do not edit -->",
        "# Dependencies",
        "",
        "The packages that `[all]` installs on Linux, with the versions of `constraints.txt`, the dates of their",
        "releases, and their licences as the packages declare them. `requirements/all.txt` has the hash of every file.",
        "",
        f"Under a licence of the GPL family: {', '.join(copyleft) or 'none'}.",
        "[NOTICE](../../NOTICE) names the packages that need them, and those that `[all]` does not install.",
        "",
        "| package | version | released | licence |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def find_date(package: dict[str, Any]) -> str:
    """Return the day when the first file of the release was uploaded."""
    files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
    return min((f"{file['upload-time']:%Y-%m-%d}" for file in files if "upload-time" in file), default="-")


def find_licence(package: dict[str, Any]) -> str:
    """Return the licence that a package declares: its expression, its classifiers, or the first line of its text."""
    try:
        declared = metadata(package["name"])
    except PackageNotFoundError:
        raise SystemExit(f"{package['name']} is not installed beside this program: run `make requirements`") from None
    if expression := declared["License-Expression"]:
        return expression
    classifiers = [line for line in declared.get_all("Classifier") or [] if line.startswith(CLASSIFIER)]
    names = [line.rpartition(" :: ")[2] for line in classifiers]
    first = (declared["License"] or "").strip().partition("\n")[0]
    text = " or ".join(names) if names and names != ["OSI Approved"] else first
    return re.sub(r"\s+", " ", text).replace("|", "/")[:MAX_LICENCE_LENGTH] or "not declared"


if __name__ == "__main__":
    main()
