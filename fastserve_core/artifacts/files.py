"""Atomic writes of small files, copies of folders, and the files of a tokenizer."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastserve_core.errors import OptionError, wrap_write_errors

VOCABULARIES = (
    *("vocab*.txt", "vocab*.json", "merges.txt", "*.model", "*.spm", "*.tiktoken", "tekken.json", "bpe.codes"),
    *("dict.txt", "prophetnet.tokenizer", "target_vocab.json", "entity_vocab.json", "word_*.json", "byte_maps.json"),
    *("normalizer.json", "emoji.json"),
)
"""Patterns of the vocabulary files of all tokenizers of transformers."""
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", *VOCABULARIES),
)
"""Patterns of the files that a tokenizer may need."""


def expand_user(path: str | Path) -> Path:
    """Return a path with the home folder for ``~``; the name of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 -- Path.expanduser raises RuntimeError for it


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


def publish_new(path: Path, text: str) -> None:
    """Write a new file atomically, with its folder; a file of that name is not replaced.

    Raises:
        OptionError: The file exists.
        StoreError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with wrap_write_errors(path.name, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8")
            os.link(partial, path)  # which fails if the file exists, unlike a rename
        except FileExistsError as error:
            raise OptionError(f"{path} exists already") from error
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


def apply_umask(folder: Path) -> None:
    """Give the folder and its files at least the permissions that the umask allows.

    safetensors and ``tempfile`` create files that only their owner can read, whatever the umask is.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    for path in [*folder.rglob("*"), folder]:
        mode = path.stat().st_mode
        wanted = mode | (0o777 if path.is_dir() else 0o666) & ~mask
        if wanted != mode:
            path.chmod(wanted)


def copy_tree(source: Path, target: Path, names: Iterable[str] | None = None) -> None:
    """Copy a folder atomically, replacing the target.

    Args:
        source: The folder.
        target: The copy.
        names: The relative paths of the files to copy; by default all.

    Raises:
        StoreError: The target cannot be written.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with wrap_write_errors(f"a copy of {source.name}", target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if names is None:
                shutil.copytree(source, partial)
            for name in names or ():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, partial / name)
            apply_umask(partial)
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
    for name in list_tokenizer_files(source):
        if not _matches(name, skipped):
            shutil.copyfile(source / name, target / name)


def list_tokenizer_files(folder: Path) -> list[str]:
    """Return the names of the files in a model folder that a tokenizer of any class may need."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and _matches(path.name, TOKENIZER_FILES))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
