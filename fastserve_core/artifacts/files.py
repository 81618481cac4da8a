"""Atomic writes of small files, copies of folders, and the files of a tokenizer."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from fastserve_core.errors import wrap_write_errors

VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *VOCABULARIES,
)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: readers see the old text or the new one.

    Raises:
        StoreError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with wrap_write_errors(path.name, path.parent), partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with wrap_write_errors(path.name, path.parent):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically.

    Raises:
        StoreError: The file cannot be written.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def fsync_dir(folder: Path) -> None:
    """Flush a folder's files and names to disk, so that a rename publishes complete files."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_symlink():
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder atomically, replacing the target.

    Raises:
        StoreError: The target cannot be written.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with wrap_write_errors(f"a copy of {source.name}", target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, partial)
            if target.exists():
                shutil.rmtree(target)
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def copy_tokenizer(source: Path, target: Path, skip_vocabularies: bool = False) -> None:
    """Copy the tokenizer's files of one model folder into another.

    Args:
        source: The folder to copy from.
        target: The folder to copy to.
        skip_vocabularies: Whether to skip separate vocabulary files if ``tokenizer.json`` has the vocabulary too.
    """
    has_fast_tokenizer = (source / "tokenizer.json").is_file()
    skipped = VOCABULARIES if skip_vocabularies and has_fast_tokenizer else ()
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and name not in skipped:
            shutil.copyfile(source / name, target / name)
