"""Spans of a text with their types, as files have them, and the tags that mark them in its words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from fastserve_core.tasks import read_label
from fastserve_text.tagging.tag_schemes import OUTSIDE
from fastserve_text.tagging.words import Bounds

NAME_KEYS = ("slot", "entity", "entity_group", "label", "type", "name")
START_KEYS, END_KEYS = ("start", "start_offset"), ("end", "end_offset")
VALUE_KEYS = ("text", "value", "word")
"""``value`` may be a normal form of the part of the text, as in Rasa's files; ``text`` is that part itself."""
MAX_SHOWN = 30


class Noun(NamedTuple):
    """A task's word for its spans, in messages."""

    singular: str
    plural: str
    article: str = "a"


class Span(NamedTuple):
    """A part of a text: the name of its type, its first character and the one behind its last."""

    name: str
    start: int
    end: int


def read_spans(value: Any, text: str, noun: Noun) -> list[Span]:
    """Return the spans of a text in their order; one that occurs twice is one.

    Args:
        value: A list of mappings with a name and ``start`` and ``end``, or with a name and a value that stands once in
            the text; of triples ``[start, end, name]``; such a list as JSON; nothing.
        text: The text.
        noun: The task's word for a span.

    Raises:
        ValueError: The value is not such a list, a span does not fit the text, or two overlap.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"'{noun.plural}' is not a list of {noun.plural} as JSON: {_shorten(value)}") from error
    if value in (None, "", [], {}) or (isinstance(value, str) and not value.strip()):
        return []
    if not isinstance(value, list):
        raise ValueError(f"'{noun.plural}' is not a list of {noun.plural}: {_shorten(str(value))}")
    spans = sorted({_read_span(entry, text, noun) for entry in value}, key=lambda span: (span.start, span.end))
    for before, after in pairwise(spans):
        if after.start < before.end:
            raise ValueError(f"the {noun.plural} '{before.name}' and '{after.name}' overlap at character {after.start}")
    return spans


def _read_span(entry: Any, text: str, noun: Noun) -> Span:
    if isinstance(entry, (list, tuple)) and len(entry) == 3:
        entry = dict(zip(("start", "end", "name"), entry, strict=True))
    if not isinstance(entry, Mapping):
        shown = _shorten(str(entry))
        raise ValueError(f"'{noun.plural}' has an entry that is not {noun.article} {noun.singular}: {shown}")
    try:
        name = read_label(_first(entry, NAME_KEYS))
    except ValueError as error:
        raise ValueError(f"the name of {noun.article} {noun.singular} {error}") from error
    value = next((entry[key] for key in VALUE_KEYS if isinstance(entry.get(key), str)), None)
    start, end = _first(entry, START_KEYS), _first(entry, END_KEYS)
    if start is None and value:
        if (count := text.count(value)) != 1:
            raise ValueError(
                f"the value '{_shorten(value)}' of the {noun.singular} '{name}' stands {count} times in the text: "
                "give its 'start' and 'end'"
            )
        start, end = text.index(value), text.index(value) + len(value)
    if not (_is_number(start) and _is_number(end)):
        raise ValueError(f"the {noun.singular} '{name}' has no whole numbers 'start' and 'end'")
    if not 0 <= start < end <= len(text) or not text[start:end].strip():
        raise ValueError(
            f"the {noun.singular} '{name}' at {start} to {end} marks nothing in the text of {len(text)} characters"
        )
    if value is not None and "text" in entry and value != text[start:end]:
        raise ValueError(
            f"the {noun.singular} '{name}' is '{_shorten(value)}', but the text has '{_shorten(text[start:end])}'"
        )
    return Span(name, start, end)


def _first(entry: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def cut_bounds(bounds: Sequence[Bounds], spans: Sequence[Span]) -> list[Bounds]:
    """Return the words of a text, cut further where a span begins or ends inside one."""
    ends = {place for span in spans for place in (span.start, span.end)}
    return [part for first, last in bounds for part in pairwise([first, *sorted(_between(ends, first, last)), last])]


def _between(places: set[int], first: int, last: int) -> Iterator[int]:
    return (place for place in places if first < place < last)


def tag_words(bounds: Sequence[Bounds], spans: Sequence[Span]) -> list[str]:
    """Return the BIO tags of words.

    Args:
        bounds: The characters of the words.
        spans: Spans that do not overlap.
    """
    tags = [OUTSIDE] * len(bounds)
    for span in spans:
        inside = [number for number, (start, end) in enumerate(bounds) if start < span.end and span.start < end]
        for number in inside:
            tags[number] = f"{'B' if number == inside[0] else 'I'}-{span.name}"
    return tags


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
