"""Content hashes of files, folders and JSON values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path, exclude: Iterable[str] = ()) -> dict[str, str]:
    """Return the sha256 of every file below a folder, by relative path.

    Args:
        folder: The folder.
        exclude: Relative paths to skip.
    """
    skipped = set(exclude)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: hash_file(path) for name, path in names.items() if name not in skipped}


def json_digest(files: Mapping[str, str]) -> str:
    """Return one digest of a folder's files.

    Args:
        files: The hash of each file by name.
    """
    return stable_hash(dict(files))


def stable_hash(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON, in hex; values that JSON does not have count as their text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
