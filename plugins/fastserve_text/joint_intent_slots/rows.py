"""Rows as files and callers give them: texts or words, an intent, and slots as spans of characters or as tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve_core.tasks import Row, read_label, read_words
from fastserve_text.base import validate_text
from fastserve_text.tagging.base import read_tags
from fastserve_text.tagging.encoding import join_bounds
from fastserve_text.tagging.spans import Noun, cut_bounds, read_spans, tag_words
from fastserve_text.tagging.words import split_words

WORD_COLUMNS = ("tokens", "words")
"""Columns that hold the text as a list of words."""
NOUN = Noun("slot", "slots")


def prefer_words(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record whose words, if it has a list of them, are its text: tags count by these words."""
    words = next((values[name] for name in WORD_COLUMNS if values.get(name)), None)
    return values if words is None or ("text" in values and "slots" in values) else {**values, "text": words}


def normalize_row(row: Row) -> None:
    """Replace the text and the slots of a row by ``tokens`` and ``tags``; a row without slots or tags gets no tags.

    Raises:
        ValueError: The row cannot be used; the message is the reason.
    """
    text, slots, tags = row.pop("text", None), row.pop("slots", None), row.pop("tags", None)
    is_annotated = slots is not None or tags is not None
    try:
        row["intent"] = read_label(row.get("intent"))
    except ValueError as error:
        raise ValueError(f"'intent' {error}") from error
    if isinstance(text, str) and tags is None:
        if fault := validate_text({"text": text}):
            raise ValueError(fault)
        found = read_spans(slots, text, NOUN)
        bounds = cut_bounds(split_words(text), found)
        row["tokens"] = [text[start:end] for start, end in bounds]
    else:
        try:
            row["tokens"] = read_words(text.split() if isinstance(text, str) else text)
        except ValueError as error:
            raise ValueError(f"'text' {error}") from error
        bounds = join_bounds(row["tokens"])
        found = read_spans(slots, " ".join(row["tokens"]), NOUN) if tags is None else []
    if is_annotated:
        row["tags"] = read_tags(tags, len(bounds)) if tags is not None else tag_words(bounds, found)
