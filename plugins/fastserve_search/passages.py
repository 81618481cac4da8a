"""Cuts documents into passages at headings, paragraphs and sentences; a passage is a part of the text, unchanged."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from fastserve_core.errors import OptionError

IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f"
"""Characters of scripts without spaces between words, as a part of a character class; each counts as a word."""
UNIT = re.compile(rf"[{IDEOGRAPHS}]|[^\s{IDEOGRAPHS}]{{1,16}}")
"""A word. A longer one, such as an address, counts as several, because a model reads it as several tokens."""
CLOSING = "\"'”’』」）)\\]】》"
SENTENCE_END = re.compile(rf"(?:[.!?…]|[。！？；])[{CLOSING}]*$")
WIDE_END = re.compile(rf"[。！？；][{CLOSING}]*$")
INSIDE_WORD, WORD, SENTENCE, PARAGRAPH, HEADING = range(5)
"""The strength of the break before a word."""


MIN_SIZE = 8
AreLong = Callable[[Sequence[str]], Sequence[bool]]
"""Returns for each text whether it is longer than a model reads."""


class Passage(NamedTuple):
    """A part of a text: the characters from ``start`` to ``end``."""

    start: int
    end: int


@dataclass(frozen=True)
class PassageCutter:
    """Cuts texts into passages.

    Attributes:
        size: The maximum number of words of a passage; a Chinese character counts as one.
        overlap: The maximum number of words at the end of a passage that the next one repeats, in whole sentences.

    Raises:
        OptionError: A value is out of its range.
    """

    size: int = 120
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.size < MIN_SIZE:
            raise OptionError(f"passages need at least {MIN_SIZE} words, not {self.size}")
        if not 0 <= self.overlap <= self.size // 2:
            raise OptionError(f"the overlap must be 0 to {self.size // 2} words, half a passage, not {self.overlap}")

    def cut(self, text: str) -> list[Passage]:
        """Return the passages of a text in order: no word is in none, and none has white space at its ends."""
        units = [match.span() for match in UNIT.finditer(text)]
        breaks = [HEADING, *(_strength(text, units[place - 1], units[place]) for place in range(1, len(units)))]
        passages, start = list[Passage](), 0
        while start < len(units):
            end = self._find_end(breaks, start)
            passages.append(Passage(units[start][0], units[end - 1][1]))
            if end == len(units):
                break
            start = self._find_start(breaks, start, end)
        return passages

    def cut_to_fit(self, text: str, are_long: AreLong) -> list[Passage]:
        """Return the passages of a text; one that is longer than a model reads is cut in halves until they fit.

        Args:
            text: The text.
            are_long: Returns which passages are too long. Those of the minimum size stay as they are.
        """
        passages = self.cut(text)
        if not passages:
            return []
        found, size = list[Passage](), max(MIN_SIZE, self.size // 2)
        smaller = replace(self, size=size, overlap=min(self.overlap, size // 2))
        flags = are_long([text[start:end] for start, end in passages])
        for passage, is_long in zip(passages, flags, strict=True):
            if not is_long or self.size == MIN_SIZE:
                found.append(passage)
                continue
            start, end = passage
            found += [Passage(start + a, start + b) for a, b in smaller.cut_to_fit(text[start:end], are_long)]
        return found

    def _find_end(self, breaks: Sequence[int], start: int) -> int:
        """Return the last of the strongest breaks in the second half of a passage that begins at a unit."""
        last = start + self.size
        if last >= len(breaks):
            return len(breaks)
        return max(range(start + self.size // 2 + 1, last + 1), key=lambda place: (breaks[place], place))

    def _find_start(self, breaks: Sequence[int], start: int, end: int) -> int:
        """Return the first beginning of a sentence that the overlap allows for the passage after ``end``."""
        first = max(end - self.overlap, start + 1)
        return next((place for place in range(first, end) if breaks[place] >= SENTENCE), end)


def _strength(text: str, before: tuple[int, int], after: tuple[int, int]) -> int:
    """Return the strength of the break between two neighbouring words."""
    gap = text[before[1] : after[0]]
    if "\n" in gap and text[after[0]] == "#":
        return HEADING
    if gap.count("\n") > 1:
        return PARAGRAPH
    if text[after[0]] in CLOSING:
        return WORD if gap else INSIDE_WORD
    word = text[before[0] : before[1]]
    if SENTENCE_END.search(word) if gap else WIDE_END.search(word):
        return SENTENCE
    is_joined = not gap and not re.match(f"[{IDEOGRAPHS}]", text[after[0]]) and not re.match(f"[{IDEOGRAPHS}]", word)
    return INSIDE_WORD if is_joined else WORD
