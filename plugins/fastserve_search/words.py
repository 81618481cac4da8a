"""The words of texts for search by words: words of alphabets, and pairs of characters of scripts without spaces."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastserve_search.passages import IDEOGRAPHS

TOKEN = re.compile(rf"[{IDEOGRAPHS}]+|[^\W_{IDEOGRAPHS}]+")
IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")
MAX_QUERY_WORDS = 256
"""The number of different words of a query that are searched for."""


def split_words(text: str) -> Iterator[str]:
    """Yield the words of a passage; Chinese as its characters and its pairs of neighbouring characters."""
    for match in TOKEN.finditer(text.casefold()):
        word = match.group()
        if IDEOGRAPH.match(word):
            yield from word
            yield from (word[place : place + 2] for place in range(len(word) - 1))
        else:
            yield word


def query_words(query: str) -> list[str]:
    """Return the different words of a query, at most ``MAX_QUERY_WORDS``.

    Of Chinese, these are pairs of characters, and a character only if it stands alone.
    """
    found: dict[str, None] = {}
    for match in TOKEN.finditer(query.casefold()):
        word = match.group()
        if IDEOGRAPH.match(word) and len(word) > 1:
            found |= dict.fromkeys(word[place : place + 2] for place in range(len(word) - 1))
        else:
            found[word] = None
        if len(found) >= MAX_QUERY_WORDS:
            break
    return list(found)[:MAX_QUERY_WORDS]
