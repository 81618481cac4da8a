"""Reads interactions and items of RecBole's atomic files: tab separated, each name in the header with its type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_core.data import RawRecord, Report
from fastserve_core.errors import DataError
from fastserve_data.separated import parse_separated
from fastserve_data.text_files import iterate_lines, open_text

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

SUFFIX, ITEM_SUFFIX = ".inter", ".item"
TYPE = re.compile(r":(token|token_seq|float|float_seq)(?=\t|\r?\n?$)")


def read_inter(path: Path, options: DataOptions, report: Report, suffix: str) -> Iterator[RawRecord]:
    """Read the rows of an atomic file; the types are removed from the names of its columns.

    Args:
        path: The file.
        options: The options ``quoting`` and ``encoding``; the separator is a tab unless one is set.
        report: Called with a message for signs of a fault.
        suffix: ``.inter`` or ``.item``.

    Raises:
        DataError: The header has no types.
    """
    with open_text(path, options.encoding, "", report) as file:
        lines = iterate_lines(file, path)
        header = next(lines, "")
        plain, types = TYPE.subn("", header)
        if not types:
            raise DataError(f"{path}:1: the header has no types, such as item_id:token")
        separator = "\t" if options.separator == "auto" else options.separator
        yield from parse_separated(
            chain([plain], lines), str(path), replace(options, separator=separator), report, ".tsv"
        )
