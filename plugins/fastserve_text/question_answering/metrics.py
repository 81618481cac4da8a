"""Exact match and F1 of answers, as SQuAD's evaluation computes them (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
PUNCTUATION = frozenset(string.punctuation)
WIDE_CHARACTER = re.compile(r"([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff])")
"""Chinese and Japanese characters, each of which counts as a word because no blanks part the words."""


def normalize(text: str) -> str:
    """Return a text in lower case without punctuation, English articles and double blanks.

    A text without Chinese or Japanese characters is normalized as in SQuAD's evaluation. In others, punctuation of
    any script is removed and each such character is a word.
    """
    text = text.lower()
    if WIDE_CHARACTER.search(text):
        text = WIDE_CHARACTER.sub(r" \1 ", unicodedata.normalize("NFKC", text))
        text = "".join(" " if unicodedata.category(one).startswith("P") else one for one in text)
    else:
        text = "".join(one for one in text if one not in PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", text).split())


def exact_match(answer: str, truths: Sequence[str]) -> float:
    """Return 1 if the answer equals one of the true ones; without a true one, if it is empty."""
    return float(normalize(answer) in _normalize_all(truths))


def token_f1(answer: str, truths: Sequence[str]) -> float:
    """Return the highest F1 of the answer's words with those of a true one; without a true one, 1 if it is empty."""
    return max(_f1(normalize(answer).split(), truth.split()) for truth in _normalize_all(truths))


def _normalize_all(truths: Sequence[str]) -> list[str]:
    """Return the true answers of which something is left; an empty one if there is none."""
    return [truth for truth in map(normalize, truths) if truth] or [""]


def _f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted))
