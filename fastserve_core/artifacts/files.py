"""Small files, written whole or not at all, and the files of a tokenizer."""

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
    """Write beside the file, then rename: a reader sees the old text or the new one, never half."""
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
    """``write_text`` of a value as indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def fsync_dir(folder: Path) -> None:
    """Flush a folder's files and their names to the disk, so that a rename publishes what is really there."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_symlink():
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder so that the target appears whole: through a partial folder beside it."""
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


def copy_tokenizer(source: Path, target: Path, spare: bool = False) -> None:
    """The tokenizer of one model folder into another, as far as it has the usual files.

    ``spare`` leaves out those that say again what ``tokenizer.json`` says.
    """
    for name in TOKENIZER_FILES:
        said_again = spare and name in VOCABULARIES and (source / "tokenizer.json").is_file()
        if (source / name).is_file() and not said_again:
            shutil.copyfile(source / name, target / name)
