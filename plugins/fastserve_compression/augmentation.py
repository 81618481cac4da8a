"""Data augmentation: unlabelled texts made of the training texts (after Tang et al. 2019)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from fastserve_core.errors import DataError
from fastserve_core.tasks import Row

DROP_RATE, REPLACE_RATE = 0.1, 0.15
"""Fractions of the words that are dropped, and that are replaced by words of other texts."""
MIN_WINDOW_RATIO, MAX_WINDOW_RATIO, MIN_WINDOW_WORDS = 0.3, 0.8, 3
"""Bounds of a window: fractions of the words of its text, and a number of words."""

Words = list[str]
Texts = Callable[[], Words]
"""Returns the words of a random text."""


class AugmentedRows:
    """Iterable of unlabelled rows, several for each row: mixed halves, dropped and replaced words, windows, in turn.

    Rows are made during iteration because all of them may exceed the memory. Each iteration yields the same rows.

    Raises:
        DataError: The rows are pairs of texts. Changing one text of a pair would change their relation.
    """

    def __init__(self, rows: Sequence[Row], times: int, seed: int) -> None:
        self._rows, self._times, self._seed = rows, times, seed

    def __iter__(self) -> Iterator[Row]:
        draw = random.Random(self._seed)

        def any_text() -> Words:
            return _split_words(self._rows[draw.randrange(len(self._rows))])

        for round_index in range(self._times):
            augmentation = AUGMENTATIONS[round_index % len(AUGMENTATIONS)]
            for row in self._rows:
                yield _make_row(row, augmentation(_split_words(row), any_text, draw))


def _split_words(row: Row) -> Words:
    if row.get("text_pair"):
        raise DataError("compress.distill.augment needs single texts, but the data has pairs of texts")
    if "tokens" in row:
        return list(row["tokens"])
    text = str(row["text"])
    return text.split() if len(text.split()) > 1 else list(text)  # Chinese and Japanese have no spaces


def _make_row(original: Row, words: Words) -> Row:
    if "tokens" in original:
        return {"tokens": words}
    return {"text": (" " if len(str(original["text"]).split()) > 1 else "").join(words)}


def _mix(words: Words, any_text: Texts, draw: random.Random) -> Words:
    """Join half of the text with half of another one."""
    return _take_half(words, draw) + _take_half(any_text(), draw)


def _take_half(words: Words, draw: random.Random) -> Words:
    middle = max(1, len(words) // 2)
    return words[:middle] if draw.random() < 0.5 else words[-middle:]


def _perturb(words: Words, any_text: Texts, draw: random.Random) -> Words:
    remaining = [word for word in words if draw.random() > DROP_RATE] or words
    return [draw.choice(any_text()) if draw.random() < REPLACE_RATE else word for word in remaining]


def _cut_window(words: Words, any_text: Texts, draw: random.Random) -> Words:
    length = min(
        len(words), max(MIN_WINDOW_WORDS, round(len(words) * draw.uniform(MIN_WINDOW_RATIO, MAX_WINDOW_RATIO)))
    )
    start = draw.randrange(len(words) - length + 1)
    return words[start : start + length]


AUGMENTATIONS: tuple[Callable[[Words, Texts, random.Random], Words], ...] = (_mix, _perturb, _cut_window)
