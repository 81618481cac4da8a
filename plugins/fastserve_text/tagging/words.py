"""A text as words with their characters: by blanks, without the punctuation around them, Chinese by character."""

from __future__ import annotations

import re
from collections.abc import Iterator

WIDE = (
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"  # characters
    "\u3001-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"  # their punctuation
)
"""Characters of scripts that are written without blanks: each is a word."""
WORD = re.compile(rf"[{WIDE}]|[^\s{WIDE}]+")
OPENING, CLOSING = "([{\"'“‘«¿¡<", ")]}\"'”’»,;:!?…>"
Bounds = tuple[int, int]
"""The first character of a word, and the one behind its last."""


def split_words(text: str) -> list[Bounds]:
    """Return the words of a text; punctuation at the ends of a word is a word of its own, as in annotated corpora.

    A full stop stays with a word that has another one inside, such as ``U.S.``
    """
    return [bounds for match in WORD.finditer(text) for bounds in _split_punctuation(text, *match.span())]


def _split_punctuation(text: str, start: int, end: int) -> Iterator[Bounds]:
    first, last = start, end
    while first < last - 1 and text[first] in OPENING:
        first += 1
    while first < last - 1 and _is_closing(text, first, last - 1):
        last -= 1
    yield from ((place, place + 1) for place in range(start, first))
    yield first, last
    yield from ((place, place + 1) for place in range(last, end))


def _is_closing(text: str, first: int, place: int) -> bool:
    return text[place] in CLOSING or (text[place] == "." and "." not in text[first:place])
