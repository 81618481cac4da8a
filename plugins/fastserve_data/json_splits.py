"""Reads one JSON file that holds several splits, such as CLINC's: lists of rows, or of texts with their labels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.data import RawRecord
from fastserve_core.errors import DataError
from fastserve_data.text_files import open_text

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

PART = re.compile(r"(?:oos_)?(train|val|valid|validation|dev|test)")
"""The name of a list; those of texts out of scope are parts of the split that they are named after."""
START = re.compile(rb'\s*\{\s*"(?:oos_)?(?:train|val|valid|validation|dev|test)"\s*:\s*\[')
START_BYTES = 200
MAX_BYTES = 500_000_000
"""The file is read as a whole."""
SPLITS = {"train": "train", "test": "test"}


def find_parts(path: Path, suffix: str) -> dict[str, tuple[str, ...]]:
    """Return the names of a file's lists by split; empty if the file does not hold several splits.

    Raises:
        DataError: The file is too large to be read as a whole.
    """
    if suffix != ".json" or not path.is_file():
        return {}
    with path.open("rb") as file:
        if not START.match(file.read(START_BYTES)):
            return {}
    if path.stat().st_size > MAX_BYTES:
        raise DataError(
            f"{path} holds several splits and has more than {MAX_BYTES // 1_000_000} MB: write a file for each"
        )
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}  # which the reader reports with its line
    parts: dict[str, tuple[str, ...]] = {}
    for name in value:
        if (found := PART.fullmatch(name)) and isinstance(value[name], list):
            split = SPLITS.get(found[1], "validation")
            parts[split] = (*parts.get(split, ()), name)
    return {split: tuple(sorted(names, key=len)) for split, names in parts.items()}


def read_parts(
    path: Path, parts: Sequence[str], options: DataOptions, report: Callable[[str], None]
) -> Iterator[RawRecord]:
    """Read some of a file's lists; a pair is a text and its label.

    Args:
        path: The file.
        parts: The names of the lists.
        options: The option ``encoding``.
        report: Called with a message about the encoding.

    Raises:
        DataError: The file is not JSON.
    """
    with open_text(path, options.encoding, None, report) as file:
        try:
            value = json.load(file)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not valid JSON: {error}") from error
    for part in parts:
        for number, row in enumerate(value[part], 1):
            yield _make_record(f"{path} {part} row {number}", row)


def _make_record(where: str, row: Any) -> RawRecord:
    if isinstance(row, list) and len(row) == 2:
        row = {"text": row[0], "label": row[1]}
    return RawRecord(where, row) if isinstance(row, dict) else RawRecord(where, None, "not a text with its label")
