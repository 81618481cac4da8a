"""Conversion of model files in other formats to Hugging Face folders, stored in the store."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from fastserve_core.artifacts.hashing import hash_file, stable_hash
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.entry_points import all_entry_points, load_entry_point, missing_packages
from fastserve_core.errors import MissingPackageError, ModelError, did_you_mean

GROUP = "fastserve.checkpoints"
"""The group of entry points of converters, named by the file's suffix without the dot."""


def needs_conversion(path: Path) -> bool:
    """Return whether a path is a file with a suffix for which there is a converter."""
    suffixes = {entry_point.name for entry_point in all_entry_points().select(group=GROUP)}
    return not path.is_dir() and path.suffix[1:] in suffixes


def convert_checkpoint(
    file: Path, store: Store, report: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
) -> Path:
    """Convert a model file; the result is reused while the file does not change.

    Args:
        file: The file.
        store: The store.
        report: Called with a message before the conversion.

    Returns:
        The Hugging Face folder.

    Raises:
        ModelError: The file does not exist or cannot be converted.
        MissingPackageError: A package that the converter requires is not installed.
    """
    if not file.is_file():
        neighbours = [path.name for path in file.parent.glob("*")]
        raise ModelError(f"the model file {file} does not exist{did_you_mean(file.name, neighbours)}")
    kind = load_entry_point(GROUP, file.suffix[1:])
    if missing := missing_packages(kind.requires):
        raise MissingPackageError(f"{file.name} needs {', '.join(missing)}: pip install '{kind.install}'")
    with store.claim(result_id("model", file.suffix[1:], stable_hash([kind.version, hash_file(file)]))) as claim:
        if not claim.is_published:
            report(f"converting {file.name} to a Hugging Face folder, once")
            kind().convert(file, claim.partial)
            claim.publish()
    return claim.final
