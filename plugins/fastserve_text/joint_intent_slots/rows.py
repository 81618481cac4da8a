"""Rows as files and callers give them: texts or words, an intent, and slots as spans of characters or as tags."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from fastserve_core.tasks import Row, read_label, read_words
from fastserve_text.base import validate_text
from fastserve_text.tagging.base import read_tags
from fastserve_text.tagging.encoding import join_bounds
from fastserve_text.tagging.tag_schemes import OUTSIDE
from fastserve_text.tagging.words import Bounds, split_words

WORD_COLUMNS = ("tokens", "words")
"""Columns that hold the text as a list of words."""
NAME_KEYS = ("slot", "entity", "entity_group", "label", "type", "name")
VALUE_KEYS = ("text", "value", "word")
"""``value`` may be a normal form of the part of the text, as in Rasa's files; ``text`` is that part itself."""
MAX_SHOWN = 30


class Slot(NamedTuple):
    """A slot in a text: its name, its first character and the one behind its last."""

    name: str
    start: int
    end: int


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
        found = read_slots(slots, text)
        bounds = _cut_bounds(split_words(text), found)
        row["tokens"] = [text[start:end] for start, end in bounds]
    else:
        try:
            row["tokens"] = read_words(text.split() if isinstance(text, str) else text)
        except ValueError as error:
            raise ValueError(f"'text' {error}") from error
        bounds = join_bounds(row["tokens"])
        found = read_slots(slots, " ".join(row["tokens"])) if tags is None else []
    if is_annotated:
        row["tags"] = read_tags(tags, len(bounds)) if tags is not None else tag_words(bounds, found)


def read_slots(value: Any, text: str) -> list[Slot]:
    """Return the slots of a text in their order.

    Args:
        value: A list of mappings with a name and ``start`` and ``end``, or with a name and a value that stands once in
            the text; of triples ``[start, end, name]``; such a list as JSON; nothing.
        text: The text.

    Raises:
        ValueError: The value is not such a list, a slot does not fit the text, or two overlap.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"'slots' is not a list of slots as JSON: {_shorten(value)}") from error
    if value in (None, "", [], {}) or (isinstance(value, str) and not value.strip()):
        return []
    if not isinstance(value, list):
        raise ValueError(f"'slots' is not a list of slots: {_shorten(str(value))}")
    slots = sorted((_read_slot(entry, text) for entry in value), key=lambda slot: (slot.start, slot.end))
    for before, after in pairwise(slots):
        if after.start < before.end:
            raise ValueError(f"the slots '{before.name}' and '{after.name}' overlap at character {after.start}")
    return slots


def _read_slot(entry: Any, text: str) -> Slot:
    if isinstance(entry, (list, tuple)) and len(entry) == 3:
        entry = dict(zip(("start", "end", "slot"), entry, strict=True))
    if not isinstance(entry, Mapping):
        raise ValueError(f"'slots' has an entry that is not a slot: {_shorten(str(entry))}")
    try:
        name = read_label(next((entry[key] for key in NAME_KEYS if key in entry), None))
    except ValueError as error:
        raise ValueError(f"the name of a slot {error}") from error
    value = next((entry[key] for key in VALUE_KEYS if isinstance(entry.get(key), str)), None)
    start, end = entry.get("start"), entry.get("end")
    if start is None and value:
        if text.count(value) != 1:
            raise ValueError(
                f"the value '{_shorten(value)}' of the slot '{name}' stands {text.count(value)} times in the text: "
                "give its 'start' and 'end'"
            )
        start, end = text.index(value), text.index(value) + len(value)
    if not (isinstance(start, int) and isinstance(end, int)):
        raise ValueError(f"the slot '{name}' has no whole numbers 'start' and 'end'")
    if not 0 <= start < end <= len(text) or not text[start:end].strip():
        raise ValueError(f"the slot '{name}' at {start} to {end} marks nothing in the text of {len(text)} characters")
    if value is not None and "text" in entry and value != text[start:end]:
        raise ValueError(f"the slot '{name}' is '{_shorten(value)}', but the text has '{_shorten(text[start:end])}'")
    return Slot(name, start, end)


def _cut_bounds(bounds: Sequence[Bounds], slots: Sequence[Slot]) -> list[Bounds]:
    """Return the words of a text, cut further where a slot begins or ends inside one."""
    ends = {place for slot in slots for place in (slot.start, slot.end)}
    return [part for first, last in bounds for part in pairwise([first, *sorted(_between(ends, first, last)), last])]


def _between(places: set[int], first: int, last: int) -> Iterator[int]:
    return (place for place in places if first < place < last)


def tag_words(bounds: Sequence[Bounds], slots: Sequence[Slot]) -> list[str]:
    """Return the BIO tags of words.

    Args:
        bounds: The characters of the words.
        slots: Slots that do not overlap.
    """
    tags = [OUTSIDE] * len(bounds)
    for slot in slots:
        inside = [number for number, (start, end) in enumerate(bounds) if start < slot.end and slot.start < end]
        for number in inside:
            tags[number] = f"{'B' if number == inside[0] else 'I'}-{slot.name}"
    return tags


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
