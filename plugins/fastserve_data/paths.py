"""Finds the files that an option names: a path, a pattern, a folder, a saved data set, or a list of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import hash_file, hash_files
from fastserve_core.data import expand_path
from fastserve_core.errors import DataError, did_you_mean
from fastserve_data.parallel_files import TEXTS, is_parallel
from fastserve_data.rasa import has_examples

YAML_SUFFIXES = (".yml", ".yaml")
TEXT_SUFFIXES = (".csv", ".tsv", ".inter", ".item", ".jsonl", ".ndjson", ".json", ".txt", ".conll", *YAML_SUFFIXES)
BINARY_SUFFIXES = (".parquet", ".arrow", ".xlsx")
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz")
SAVED_SET, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""Files in the folders that ``save_to_disk`` of the package datasets writes, for one split and for several."""
MAX_NEARBY_FILES = 20
"""Maximum number of files that are searched for a similar name."""
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
SPLIT_FILE = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class DataFile:
    """A file, or the folder of a saved data set or of parallel files.

    Attributes:
        path: The path.
        suffix: The suffix that decides how it is read, without that of a compression; empty for a saved data set,
            ``seq.in`` for parallel files.
        parts: The lists of a JSON file that holds several splits; empty if all of the file is read.
    """

    path: Path
    suffix: str
    parts: tuple[str, ...] = ()

    def hash(self) -> list[Any]:
        """Hash the contents, with the options that decide how they are read."""
        contents = hash_files(self.path) if self.path.is_dir() else hash_file(self.path)
        return [self.suffix, contents, *self.parts]


def find_files(given: Any, option: str) -> list[DataFile]:
    """Return the files that an option names, those of a pattern or a folder in the order of their names.

    Args:
        given: A path, a pattern, a folder, or a list of them.
        option: The option, for error messages.

    Raises:
        DataError: A file is missing, empty, unreadable or of an unsupported type.
    """
    files = [file for path in ([given] if isinstance(given, str) else given or ()) for file in _expand(path, option)]
    if not files:
        raise DataError(f"{option}: no file matches {given}")
    for file in files:
        _check_file(file, option)
    return files


def find_splits(folder: Path) -> dict[str, list[str]]:
    """Return the paths in a folder by split, if it is divided into splits; empty if it is not."""
    if (folder / SAVED_SPLITS).is_file():
        paths: Iterable[Path] = (path.parent for path in folder.glob(f"*/{SAVED_SET}"))
    else:
        paths = [*_list_folder(folder), *filter(is_parallel, folder.glob("[!.]*"))]
    splits: dict[str, list[str]] = {}
    for path in sorted(paths):
        if found := SPLIT_FILE.match(path.name):
            splits.setdefault(SPLIT_NAMES[found[1].lower()], []).append(str(path))
    return splits if "train" in splits else {}


def data_suffix(path: Path) -> str:
    """Return the suffix that decides how a file is read."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_supported(path: Path) -> bool:
    """Return whether a reader exists for a file."""
    is_compressed = path.suffix.lower() in COMPRESSED_SUFFIXES
    return data_suffix(path) in (TEXT_SUFFIXES if is_compressed else TEXT_SUFFIXES + BINARY_SUFFIXES)


def _expand(given: str, option: str) -> list[DataFile]:
    paths = expand_path(given)
    if len(paths) == 1 and paths[0].is_dir():
        return _expand_folder(paths[0], option)
    if not paths:
        raise DataError(f"{option}: no file matches {given}")
    return [DataFile(path, data_suffix(path)) for path in paths if not path.is_dir()]


def _expand_folder(folder: Path, option: str) -> list[DataFile]:
    if (folder / SAVED_SET).is_file():
        return [DataFile(folder, "")]
    if (folder / SAVED_SPLITS).is_file():
        names = sorted(path.parent.name for path in folder.glob(f"*/{SAVED_SET}"))
        raise DataError(f"{option}: the data set {folder} has several splits ({', '.join(names)}): name one of them")
    if is_parallel(folder):
        return [DataFile(folder, TEXTS)]
    files = [DataFile(path, data_suffix(path)) for path in _list_folder(folder)]
    if not files:
        raise DataError(f"{option}: the folder {folder} has no data files; supported: {_supported()}")
    return files


def _list_folder(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if path.is_file() and is_supported(path) and _has_rows(path))


def _has_rows(path: Path) -> bool:
    """Return whether a file of a folder has rows of data: an ``.item`` describes the items of an ``.inter`` beside."""
    suffix = data_suffix(path)
    return suffix != ".item" and (suffix not in YAML_SUFFIXES or has_examples(path))


def _check_file(file: DataFile, option: str) -> None:
    path = file.path
    if path.is_dir():  # of a saved data set, or of parallel files
        return
    if not path.is_file():
        near = [other.name for other in path.parent.glob("[!.]*") if is_supported(other)]
        raise DataError(f"{option}: the file {path} does not exist{did_you_mean(path.name, near[:MAX_NEARBY_FILES])}")
    if not is_supported(path):
        raise DataError(f"{option}: unsupported file type {path.name}; supported: {_supported()}")
    if not os.access(path, os.R_OK):
        raise DataError(f"{option}: no permission to read {path}")
    if path.stat().st_size == 0:
        raise DataError(f"{option}: the file {path} is empty")


def _supported() -> str:
    return f"{', '.join(TEXT_SUFFIXES + BINARY_SUFFIXES)}; texts also with {', '.join(COMPRESSED_SUFFIXES)}"
