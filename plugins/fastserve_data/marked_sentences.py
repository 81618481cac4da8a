"""Reads the text files of SemEval-2010 task 8: numbered sentences, each with its relation in the next line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastserve_core.data import RawRecord

SENTENCE = re.compile(r'(\d+)\t"?(.*?</?e[12]>.*?)"?')
COMMENT = "Comment:"


def is_marked_sentence(line: str) -> bool:
    """Return whether a line is a number and a sentence with marked entities."""
    return SENTENCE.fullmatch(line) is not None


def read_marked_sentences(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[RawRecord]:
    """Read the sentences of a file; one without a relation in the next line has no column ``relation``.

    Args:
        lines: The lines with their numbers, without blanks at their ends.
        path: The file, for places and messages.
    """
    where, record = "", dict[str, str]()
    for number, line in lines:
        if match := SENTENCE.fullmatch(line):
            if record:
                yield RawRecord(where, record)
            where, record = f"{path}:{number}", {"id": match[1], "text": match[2]}
        elif line and not line.startswith(COMMENT):
            if record and "relation" not in record:
                record["relation"] = line
                continue
            if record:
                yield RawRecord(where, record)
                record = {}
            fault = "neither a numbered sentence with marked entities, nor the relation of the one before"
            yield RawRecord(f"{path}:{number}", None, fault)
    if record:
        yield RawRecord(where, record)
