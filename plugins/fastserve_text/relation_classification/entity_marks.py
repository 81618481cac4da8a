"""Two entities of a text: marked in the text, or as spans of characters or of words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from fastserve_core.tasks import Row

MARK = re.compile(r"<(/?)e([12])>")
MARKS = "<e1>…</e1> and <e2>…</e2>"
ENTITIES = ("head", "tail")
TACRED_FIELDS = ("subj_start", "subj_end", "obj_start", "obj_end")
"""The first and the last word of each entity in records of TACRED."""
Span = list[int]
"""The first character of an entity, and the one behind its last."""


def unify_record(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record with ``text``, ``head`` and ``tail``; one that has them already, or marks, is returned as it is.

    Records of TACRED (``token``, ``subj_start``, ``obj_start`` …) and of OpenNRE (``token`` or ``text``, and ``h`` and
    ``t`` with ``pos``) name entities by their words, or have other names for them.
    """
    words = values.get("token", values.get("tokens"))
    spans: dict[str, Any] = {}
    if isinstance(words, list) and all(name in values for name in TACRED_FIELDS):
        numbers = [values[name] for name in TACRED_FIELDS]
        spans = {"head": [numbers[0], _add_one(numbers[1])], "tail": [numbers[2], _add_one(numbers[3])]}
    elif isinstance(values.get("h"), Mapping) and isinstance(values.get("t"), Mapping):
        spans = {"head": values["h"].get("pos"), "tail": values["t"].get("pos")}
    if not spans:
        return values
    if isinstance(words, list):
        texts = list(map(str, words))
        spans = {name: _to_characters(span, texts) for name, span in spans.items()}
        return {**values, "text": " ".join(texts), **spans}
    return {**values, **spans}


def _add_one(number: Any) -> Any:
    return number + 1 if isinstance(number, int) else number


def _to_characters(span: Any, words: Sequence[str]) -> Any:
    """Return the characters of a span of joined words; those of words that the text does not have lie outside it."""
    if not _is_pair(span):
        return span
    starts = [0, *accumulate(len(word) + 1 for word in words)]
    first, last = span[0], span[1] - 1
    known = range(len(words))
    return [starts[first] if first in known else -1, starts[last + 1] - 1 if last in known else starts[-1]]


def normalize_entities(row: Row) -> str | None:
    """Bring the entities of a row into the form ``text`` without marks, ``head`` and ``tail`` as ``[start, end]``.

    An entity is a span of characters, such a span as JSON text or as ``{"start": 0, "end": 4}``, or the entity's own
    text if it occurs once. Without ``head`` and ``tail``, the text has marks.

    Returns:
        Why the row cannot be used, or ``None``.
    """
    text = row["text"]
    given = {name: row.get(name) for name in ENTITIES}
    if all(value is None or value == "" for value in given.values()):
        return _read_marks(row)
    spans: dict[str, Span] = {}
    for name, value in given.items():
        span = _read_span(name, value, text)
        if isinstance(span, str):
            return span
        spans[name] = span
    return _find_overlap(spans["head"], spans["tail"]) or row.update(spans)


def _read_marks(row: Row) -> str | None:
    text, plain, end = row["text"], "", 0
    places: dict[str, int] = {}
    opened = ""
    for match in MARK.finditer(text):
        plain += text[end : match.start()]
        end = match.end()
        closes, number = match.groups()
        mark = match[0]
        if mark in places:
            return f"'text' has {mark} twice"
        if (closes and opened != number) or (opened and not closes):
            return (
                f"'text' has {mark} {f'within <e{opened}>…</e{opened}>' if opened else f'without <e{number}> before'}"
            )
        places[mark], opened = len(plain), "" if closes else number
    if missing := [mark for mark in ("<e1>", "</e1>", "<e2>", "</e2>") if mark not in places]:
        if not places:
            return f"'text' has no marks {MARKS}, and there are no 'head' and 'tail'"
        return f"'text' has no {missing[0]}"
    plain += text[end:]
    spans = [_strip(plain, places[f"<e{number}>"], places[f"</e{number}>"]) for number in (1, 2)]
    for number, span in enumerate(spans, 1):
        if span[0] == span[1]:
            return f"'text' has nothing between <e{number}> and </e{number}>"
    row.update(text=plain, **dict(zip(ENTITIES, spans, strict=True)))
    return None


def _strip(text: str, start: int, end: int) -> Span:
    """Return a span without the blanks at its ends."""
    part = text[start:end]
    if not part.strip():
        return [start, start]
    return [start + len(part) - len(part.lstrip()), start + len(part.rstrip())]


def _read_span(name: str, value: Any, text: str) -> Span | str:
    """Return the span that a value means, or why it means none."""
    if value is None or value == "":
        return f"'{name}' is missing"
    if isinstance(value, str):
        parsed = _parse(value)
        if parsed is None:
            return _find(name, value, text)
        value = parsed
    if isinstance(value, Mapping):
        value = value.get("pos", [value.get("start"), value.get("end")])
    if not _is_pair(value):
        return f"'{name}' is not a span [start, end] of characters: {value!r}"
    start, end = value
    if start < 0 or end > len(text):
        return f"'{name}' [{start}, {end}] lies outside the text, which has {len(text)} characters"
    if start >= end or not text[start:end].strip():
        return f"'{name}' [{start}, {end}] is empty"
    return _strip(text, start, end)


def _parse(value: str) -> Any:
    """Return a span that is written as JSON; ``None`` for other texts."""
    if not value.lstrip().startswith(("[", "{")):
        return None
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, (list, Mapping)) else None


def _find(name: str, entity: str, text: str) -> Span | str:
    """Return the only span of a text that is an entity, or why there is none."""
    entity = entity.strip()
    found = [match.start() for match in re.finditer(f"(?={re.escape(entity)})", text)] if entity else []
    if len(found) == 1:
        return [found[0], found[0] + len(entity)]
    if not found:
        return f"'{name}' is not in the text: {entity!r}"
    return f"'{name}' occurs {len(found)} times in the text: give its characters as [start, end], not {entity!r}"


def _is_pair(value: Any) -> bool:
    """Return whether a value is two whole numbers."""
    is_list = isinstance(value, (list, tuple)) and len(value) == 2
    return is_list and all(isinstance(number, int) and not isinstance(number, bool) for number in value)


def _find_overlap(head: Span, tail: Span) -> str | None:
    if head == tail:
        return f"'head' and 'tail' are the same characters [{head[0]}, {head[1]}]"
    if head[0] < tail[1] and tail[0] < head[1]:
        return f"'head' [{head[0]}, {head[1]}] and 'tail' [{tail[0]}, {tail[1]}] overlap"
    return None
