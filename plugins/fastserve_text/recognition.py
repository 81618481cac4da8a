"""A first look at texts: columns by their values, lengths in tokens before there is a tokenizer, the script."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from fastserve_core.tasks import read_label

CJK = "⺀-⻿぀-ヿ㐀-䶿一-鿿豈-﫿가-힯"
UNIT = re.compile(rf"[{CJK}]|[^\W{CJK}]+|[^\w\s]")
"""A word, a sign, or a character of a script without blanks between words."""
TOKENS_PER_UNIT = 1.3
"""Tokenizers cut rare words: the pretrained MiniLM makes about 1.2 tokens of each word or sign of a review."""
MIN_UNITS = 3
MIN_DISTINCT = 0.5
MAX_LABEL_CHARACTERS = 60
MAX_LABEL_SHARE = 0.1
MIN_LABELS, ALWAYS_LABELS = 2, 20
LONG_SHARE = 0.95
STEP, MAX_LENGTH = 16, 512


def holds_texts(values: Sequence[Any]) -> bool:
    """Return whether values look like texts: several words on average, and mostly different ones."""
    if not all(isinstance(value, str) for value in values):
        return False
    units = sum(len(UNIT.findall(value)) for value in values) / len(values)
    return units >= MIN_UNITS and len(set(values)) >= MIN_DISTINCT * len(values)


def holds_labels(values: Sequence[Any]) -> bool:
    """Return whether values look like labels: short ones, few of them, and most occur again."""
    try:
        labels = [read_label(value) for value in values]
    except ValueError:
        return False
    distinct = len(set(labels))
    is_short = all(len(label) <= MAX_LABEL_CHARACTERS for label in labels)
    most = max(min(ALWAYS_LABELS, len(labels) // 2), MAX_LABEL_SHARE * len(labels))
    return is_short and MIN_LABELS <= distinct <= most


def holds_numbers(values: Sequence[Any]) -> bool:
    """Return whether values look like measured numbers: more than two different ones, some with decimals."""
    try:
        numbers = {float(value) for value in values}
    except (TypeError, ValueError):
        return False
    is_finite = all(map(math.isfinite, numbers))
    return is_finite and len(numbers) > MIN_LABELS and not all(map(float.is_integer, numbers))


def count_tokens(text: str) -> int:
    """Estimate the number of tokens of a text, with the two that mark its ends."""
    return round(TOKENS_PER_UNIT * len(UNIT.findall(text))) + 2


def propose_length(lengths: Iterable[int]) -> tuple[int, str]:
    """Return a maximum length that cuts few texts, and the evidence.

    Args:
        lengths: The estimated numbers of tokens.
    """
    ordered = sorted(lengths)
    common = ordered[int(LONG_SHARE * (len(ordered) - 1))]
    proposed = min(-(-common // STEP) * STEP, MAX_LENGTH)
    cut = sum(length > proposed for length in ordered)
    return proposed, (
        f"about {ordered[len(ordered) // 2]} tokens at the median, {common} at 95%, {ordered[-1]} at most: "
        f"max_length={proposed} cuts {cut} of {len(ordered)}"
    )


def is_latin(texts: Iterable[str]) -> bool:
    """Return whether most letters are those of a Latin alphabet."""
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    return sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters) * 2 >= len(letters)
