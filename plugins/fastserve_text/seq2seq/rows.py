"""Sources and targets as files and callers give them: texts, lists of sentences, lists of references."""

from __future__ import annotations

import re
from typing import Any

from fastserve_core.tasks import plain_value
from fastserve_text.recognition import CJK

NO_BLANK = re.compile(rf"[{CJK}。！？，、；：”）》]$")
"""The end of a sentence after which no blank is written."""


def read_source(value: Any) -> str:
    """Return the source of a cell: a text, or a list of sentences, which are joined.

    Raises:
        ValueError: It is missing, empty, or something else; the message is the end of a sentence.
    """
    value = plain_value(value)
    if value is None:
        raise ValueError("is missing")
    if isinstance(value, list):
        if wrong := [one for one in value if not isinstance(one, str)]:
            raise ValueError(f"has a {type(wrong[0]).__name__} among its sentences")
        value = join_sentences([one.strip() for one in value if one.strip()])
    if not isinstance(value, str):
        raise ValueError(f"is {type(value).__name__}, not text")
    if not value.strip():
        raise ValueError("is empty")
    return value


def read_references(value: Any) -> list[str]:
    """Return the targets of a cell: a text, or a list of several texts, each of which is right.

    Raises:
        ValueError: There is none, or one is empty or no text; the message is the end of a sentence.
    """
    value = plain_value(value)
    if value is None:
        raise ValueError("is missing")
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise ValueError("is an empty list")
    for number, text in enumerate(texts, 1):
        place = f" at place {number}" if isinstance(value, list) else ""
        if not isinstance(text, str):
            raise ValueError(f"is {type(text).__name__}{place}, not text")
        if not text.strip():
            raise ValueError(f"is empty{place}")
    return [text.strip() for text in texts]


def join_sentences(sentences: list[str]) -> str:
    """Return sentences as one text, with blanks between them except after Chinese and Japanese ones."""
    joined = ""
    for sentence in sentences:
        joined += sentence if not joined or NO_BLANK.search(joined) else f" {sentence}"
    return joined
