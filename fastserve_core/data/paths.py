"""Paths as options name them."""

from __future__ import annotations

from collections.abc import Sequence
from glob import has_magic
from pathlib import Path

from fastserve_core.artifacts.files import expand_user


def expand_path(given: str) -> Sequence[Path]:
    """Return the absolute path, or the paths that match it if it is a pattern, in the order of their names.

    Hidden files match no pattern.

    Args:
        given: The path or the pattern; a file whose name has a pattern's signs is that file.
    """
    path = expand_user(given).absolute()
    if path.exists() or not has_magic(given):
        return [path]
    try:
        found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    except ValueError:  # two stars beside other characters
        return []
    return [path for path in found if not path.name.startswith(".")]
