"""Reads a folder with the parallel files ``seq.in``, ``seq.out`` and ``label``: a text a line, its tags, its intent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.data import RawRecord
from fastserve_core.errors import DataError
from fastserve_data.text_files import iterate_lines, open_text

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

TEXTS, TAGS, INTENTS = "seq.in", "seq.out", "label"


def is_parallel(folder: Path) -> bool:
    """Return whether a folder has texts, and labels of one kind at least, in parallel files."""
    return (folder / TEXTS).is_file() and any((folder / name).is_file() for name in (TAGS, INTENTS))


def read_parallel(path: Path, options: DataOptions, report: Callable[[str], None], suffix: str) -> Iterator[RawRecord]:
    """Read the lines of the files together.

    Args:
        path: The folder.
        options: The option ``encoding``.
        report: Called with a message about the encoding.
        suffix: Unused; all readers have it.

    Raises:
        DataError: A file has more lines than another.
    """
    names = [name for name in (TEXTS, TAGS, INTENTS) if (path / name).is_file()]
    with ExitStack() as stack:
        files = [stack.enter_context(open_text(path / name, options.encoding, None, report)) for name in names]
        lines = zip_longest(*(iterate_lines(file, path / name) for file, name in zip(files, names, strict=True)))
        for number, row in enumerate(lines, 1):
            if None in row:
                short = names[row.index(None)]
                raise DataError(f"{path / short} ends before line {number}, which {_name_longer(names, row)} has")
            cells = dict(zip(names, map(str.strip, row), strict=True))
            if not any(cells.values()):
                continue
            values: dict[str, Any] = {"tokens": cells[TEXTS].split()}
            values |= {"tags": cells[TAGS].split()} if TAGS in cells else {}
            values |= {"intent": cells[INTENTS]} if INTENTS in cells else {}
            yield RawRecord(f"{path / TEXTS}:{number}", values)


def _name_longer(names: list[str], row: tuple[str | None, ...]) -> str:
    return next(name for name, line in zip(names, row, strict=True) if line is not None)
