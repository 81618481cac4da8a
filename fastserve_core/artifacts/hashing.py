"""Content hashes: of files, of folders, of everything that decides a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path, leave_out: Iterable[str] = ()) -> dict[str, str]:
    """sha256 of every file below the folder, by its relative path."""
    skipped = set(leave_out)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: hash_file(path) for name, path in names.items() if name not in skipped}


def json_digest(files: Mapping[str, str]) -> str:
    """One hash for a folder's files: the same names with the same bytes give the same digest."""
    return stable_hash(dict(files))


def stable_hash(value: Any) -> str:
    """sha256 of a value's canonical JSON; paths count as their text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
