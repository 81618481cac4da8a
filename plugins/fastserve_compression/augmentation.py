"""Texts made of the training texts, for a teacher to speak of (after Tang et al. 2019)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from fastserve_core.errors import InvalidData
from fastserve_core.tasks import Row

DROPPED, REPLACED = 0.1, 0.15
"""The share of words that go, and of words that another text's take the place of."""
SHORTEST, LONGEST, LEAST_WORDS = 0.3, 0.8, 3
"""A window's share of the words of its text, and what it has at least."""

Words = list[str]
Texts = Callable[[], Words]
"""The words of any of the texts."""


class AugmentedRows:
    """``times`` rows without labels for each row: halves of two texts, words dropped and replaced, windows, in turn.

    They are made while they are iterated, alike each time, for the rows may be more than memory holds. Raises
    ``InvalidData`` for pairs of texts: what a pair says is lost when one of the two is changed.
    """

    def __init__(self, rows: Sequence[Row], times: int, seed: int) -> None:
        self._rows, self._times, self._seed = rows, times, seed

    def __iter__(self) -> Iterator[Row]:
        draw = random.Random(self._seed)

        def any_text() -> Words:
            return _words(self._rows[draw.randrange(len(self._rows))])

        for turn in range(self._times):
            change = AUGMENTATIONS[turn % len(AUGMENTATIONS)]
            for row in self._rows:
                yield _row(row, change(_words(row), any_text, draw))


def _words(row: Row) -> Words:
    if row.get("text_pair"):
        raise InvalidData("compress.distill.augment is for single texts, and the data has pairs of them")
    if "tokens" in row:
        return list(row["tokens"])
    text = str(row["text"])
    return text.split() if len(text.split()) > 1 else list(text)  # Chinese and Japanese have no spaces


def _row(like: Row, words: Words) -> Row:
    if "tokens" in like:
        return {"tokens": words}
    return {"text": (" " if len(str(like["text"]).split()) > 1 else "").join(words)}


def _mix(words: Words, any_text: Texts, draw: random.Random) -> Words:
    """A half of the text, and a half of another."""
    return _half(words, draw) + _half(any_text(), draw)


def _half(words: Words, draw: random.Random) -> Words:
    middle = max(1, len(words) // 2)
    return words[:middle] if draw.random() < 0.5 else words[-middle:]


def _perturb(words: Words, any_text: Texts, draw: random.Random) -> Words:
    kept = [one for one in words if draw.random() > DROPPED] or words
    return [draw.choice(any_text()) if draw.random() < REPLACED else one for one in kept]


def _window(words: Words, any_text: Texts, draw: random.Random) -> Words:
    length = min(len(words), max(LEAST_WORDS, round(len(words) * draw.uniform(SHORTEST, LONGEST))))
    start = draw.randrange(len(words) - length + 1)
    return words[start : start + length]


AUGMENTATIONS: tuple[Callable[[Words, Texts, random.Random], Words], ...] = (_mix, _perturb, _window)
