"""Checksums of a published folder, recorded beside it, and compared when a process first uses the folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fastserve_core.artifacts.files import read_json, write_json
from fastserve_core.artifacts.hashing import hash_files

State = tuple[tuple[str, int, int, int], ...]


def write_checksums(folder: Path, record: Path) -> None:
    """Record the sha256 of every file of a folder.

    Args:
        folder: The folder.
        record: The JSON file to write, outside the folder; its parent is created.

    Raises:
        StoreError: The record cannot be written.
        OSError: A file of the folder cannot be read.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, hash_files(folder))


def find_damage(folder: Path, record: Path) -> str:
    """Compare a folder with its recorded checksums.

    The bytes are read once per process, and again only if a file's size, time or inode has changed since.

    Args:
        folder: The folder.
        record: The file that ``write_checksums`` wrote.

    Returns:
        The fault, or an empty string.
    """
    return _compare(folder, record, (*_state(folder), *_state(record)))


def _state(path: Path) -> State:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return tuple((name, stat.st_size, stat.st_ctime_ns, stat.st_ino) for name, stat in stats)


@cache
def _compare(folder: Path, record: Path, state: State) -> str:
    """Compare the bytes; ``state`` makes the cached answer that of files which did not change."""
    try:
        recorded: dict[str, str] = dict(read_json(record))
        found = hash_files(folder)
    except FileNotFoundError:
        return "its checksums are missing"
    except (OSError, ValueError, TypeError) as error:
        return f"it cannot be read ({error})"
    missing = [name for name in recorded if name not in found]
    changed = [name for name, value in recorded.items() if name in found and found[name] != value]
    faults = ((missing, "missing"), (changed, "changed since it was published"))
    return "; ".join(f"{', '.join(names)} {fault}" for names, fault in faults if names)
