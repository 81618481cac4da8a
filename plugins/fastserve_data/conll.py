"""Reads CoNLL files: a word and its tag a line, an empty line between texts, perhaps with the intent of each text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.data import RawRecord
from fastserve_data.text_files import iterate_lines, open_text

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

COMMENT = re.compile(r"#\s*(?P<name>[\w-]+)\s*[:=]\s*(?P<value>.*\S)\s*$")
"""A line such as ``# intent: book_flight`` before the words of a text."""
TAG = re.compile(r"O|[BIESLU]-.+")
DOCUMENT_START = "-DOCSTART-"
FIRST_TEXTS = 100
"""The number of texts that show whether the last column holds intents."""


@dataclass
class Block:
    """The lines of one text: the fields of its words, and its comments by name."""

    where: str
    rows: list[list[str]] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)


def read_conll(path: Path, options: DataOptions, report: Callable[[str], None], suffix: str) -> Iterator[RawRecord]:
    """Read the texts of a file; the word is in the first column, its tag in the last.

    A column of intents behind the tags is recognized by its single value in each text, which does not look like a tag.

    Args:
        path: The file.
        options: The option ``encoding``.
        report: Called with the columns that are read as intents, and with those that are not read.
        suffix: Unused; all readers have it.
    """
    with open_text(path, options.encoding, None, report) as file:
        blocks = _read_blocks(iterate_lines(file, path), path)
        first = list(islice(blocks, FIRST_TEXTS))
        has_intents = _has_intents(first)
        if has_intents:
            report(f"{path}: the last column is read as the intent, the one before it as the tags")
        widths = {len(row) for block in first for row in block.rows}
        if len(widths) == 1 and (unread := range(2, max(widths) - has_intents)):
            report(f"{path}: column{'s' if len(unread) > 1 else ''} {', '.join(map(str, unread))} not read")
        for block in chain(first, blocks):
            yield _make_record(block, has_intents)


def _read_blocks(lines: Iterator[str], path: Path) -> Iterator[Block]:
    block = Block("")
    for number, line in enumerate(chain(lines, [""]), 1):
        text = line.strip()
        if not text:
            if block.rows:
                yield block
            block = Block("")
        elif not block.rows and (comment := COMMENT.match(text)) and "\t" not in text:
            block.comments[comment["name"].lower()] = comment["value"]
        elif not text.startswith(DOCUMENT_START):
            block.where = block.where or f"{path}:{number}"
            block.rows.append(text.split("\t") if "\t" in text else text.split())


def _has_intents(blocks: Sequence[Block]) -> bool:
    columns = [[row[-1] for row in block.rows] for block in blocks]
    wide = all(len(row) > 2 for block in blocks for row in block.rows)
    return bool(columns) and wide and all(len(set(column)) == 1 and not TAG.fullmatch(column[0]) for column in columns)


def _make_record(block: Block, has_intents: bool) -> RawRecord:
    width = len(block.rows[0])
    for number, row in enumerate(block.rows, 1):
        if len(row) != width or width < 2 + has_intents:
            needed = width if width >= 2 + has_intents else 2 + has_intents
            return RawRecord(block.where, None, f"word {number} has {len(row)} columns, not {needed}")
    values: dict[str, Any] = {
        "tokens": [row[0] for row in block.rows],
        "tags": [row[-1 - has_intents] for row in block.rows],
    }
    intents = {row[-1] for row in block.rows} if has_intents else set()
    if len(intents) > 1:
        return RawRecord(block.where, None, f"the words have different intents: {', '.join(sorted(intents))}")
    return RawRecord(block.where, {**block.comments, **({"intent": intents.pop()} if intents else {}), **values})
