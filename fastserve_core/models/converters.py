"""A model's file in another program's format, as a Hugging Face folder: converted once, and kept in the store."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from fastserve_core.artifacts.hashing import hash_file, stable_hash
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.entry_points import all_entry_points, load_entry_point, missing_packages
from fastserve_core.errors import InvalidModel, MissingPackage, did_you_mean

GROUP = "fastserve.checkpoints"
"""What reads such files: by the file's suffix, less the dot, a class that converts one."""


def needs_conversion(path: Path) -> bool:
    """Whether a path names a file, and no folder, that somebody provides a conversion for."""
    return not path.is_dir() and path.suffix[1:] in {one.name for one in all_entry_points().select(group=GROUP)}


def convert_checkpoint(
    file: Path, store: Store, say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
) -> Path:
    """The Hugging Face folder; raises ``InvalidModel`` with the reason, ``MissingPackage`` with what to install."""
    if not file.is_file():
        near = [one.name for one in file.parent.glob("*")]
        raise InvalidModel(f"the model file {file} does not exist{did_you_mean(file.name, near)}")
    kind = load_entry_point(GROUP, file.suffix[1:])
    if missing := missing_packages(kind.requires):
        raise MissingPackage(f"{file.name} needs {', '.join(missing)}: pip install '{kind.install}'")
    with store.claim(result_id("model", file.suffix[1:], stable_hash([kind.version, hash_file(file)]))) as claim:
        if not claim.published:
            say(f"converting {file.name} to a Hugging Face folder, once")
            kind().convert(file, claim.partial)
            claim.publish()
    return claim.final
