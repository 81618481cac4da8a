"""Rows of files that mark entities as spans: of characters (doccano and others), or of words (GLiNER)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastserve_core.tasks import Row, read_words
from fastserve_text.base import validate_text
from fastserve_text.tagging.base import read_tags
from fastserve_text.tagging.encoding import join_bounds
from fastserve_text.tagging.spans import Noun, cut_bounds, read_spans, tag_words
from fastserve_text.tagging.words import split_words

TEXT_COLUMNS, WORD_COLUMN = ("text", "data"), "tokenized_text"
SPAN_COLUMNS = ("entities", "spans", "ner", "label", "labels")
"""doccano names its spans ``label`` or, with ids, ``entities``; GLiNER names them ``ner``."""
NOUN = Noun("entity", "entities", "an")


@dataclass(frozen=True)
class Unread:
    """The spans of a record, in the place of its tags until ``normalize_row`` reads them."""

    spans: Any
    """A list of spans, or one as JSON."""


def unify_record(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record with a text or words as ``tokens``, and its spans as ``tags``; other records as they are."""
    name = next((name for name in (*TEXT_COLUMNS, WORD_COLUMN) if values.get(name) is not None), None)
    if name is None or any(values.get(column) is not None for column in ("tokens", "words", "tags")):
        return values
    spans = next((values[column] for column in SPAN_COLUMNS if _holds_spans(values.get(column))), None)
    return values if spans is None else {**values, "tokens": values[name], "tags": Unread(spans)}


def _holds_spans(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip()[:2] in ("[]", "[[", "[{")
    return isinstance(value, list) and all(isinstance(entry, (list, tuple, Mapping)) for entry in value)


def normalize_row(row: Row) -> None:
    """Bring ``tokens`` and ``tags`` of a row into lists of the same length.

    Raises:
        ValueError: The row cannot be used; the message is the reason.
    """
    words, tags = row.get("tokens"), row.get("tags")
    if isinstance(tags, Unread) and isinstance(words, str):
        if fault := validate_text({"text": words}):
            raise ValueError(fault)
        spans = read_spans(tags.spans, words, NOUN)
        bounds = cut_bounds(split_words(words), spans)
        row["tokens"], row["tags"] = [words[start:end] for start, end in bounds], tag_words(bounds, spans)
        return
    try:
        row["tokens"] = read_words(words)
    except ValueError as error:
        raise ValueError(f"'tokens' {error}") from error
    if isinstance(tags, Unread):
        bounds = join_bounds(row["tokens"])
        spans = read_spans(_to_characters(tags.spans, bounds), " ".join(row["tokens"]), NOUN)
        row["tags"] = tag_words(bounds, spans)
    else:
        row["tags"] = read_tags(tags, len(row["tokens"]))


def _to_characters(spans: Any, bounds: Sequence[tuple[int, int]]) -> Any:
    """Return a list of spans of words, or one as JSON, as spans of characters.

    Raises:
        ValueError: A span does not lie in the text, or the value is not JSON.
    """
    if isinstance(spans, str):
        try:
            spans = json.loads(spans)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"'{NOUN.plural}' is not a list of {NOUN.plural} as JSON") from error
    return [_move_span(span, bounds) for span in spans] if isinstance(spans, list) else spans


def _move_span(span: Any, bounds: Sequence[tuple[int, int]]) -> Any:
    if not isinstance(span, (list, tuple)) or len(span) != 3:
        return span
    first, last, name = span
    is_inside = all(type(word) is int for word in (first, last)) and 0 <= first <= last < len(bounds)
    if not is_inside:
        raise ValueError(
            f"the {NOUN.singular} '{name}' from word {first} to {last} does not lie in the {len(bounds)} words"
        )
    return [bounds[first][0], bounds[last][1], name]
