"""The answers of a labelled row: their forms in files, and whether they stand in their context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastserve_core.tasks import Row

MAX_QUOTED = 40
"""The number of characters of a text that a message quotes."""


def normalize_answers(row: Row) -> str | None:
    """Bring ``answers`` of a row into the form ``[{"text", "start"}, …]``.

    Read are SQuAD's list of ``{"text", "answer_start"}``, the columns ``{"text": [], "answer_start": []}`` of the Hub,
    one such answer without a list, and no answer (``None`` or an empty list).

    Returns:
        Why the answers cannot be used, or ``None``.
    """
    answers, fault = _read(row.get("answers"))
    for answer in answers:
        fault = fault or _find_fault(answer, row["context"])
    row["answers"] = answers
    return fault


def split_article(values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the questions of an article in SQuAD's form, which nests them in paragraphs; other records as they are."""
    paragraphs = values.get("paragraphs", [values] if isinstance(values.get("qas"), list) else None)
    if not isinstance(paragraphs, list):
        yield "", values
        return
    for number, paragraph in enumerate(paragraphs, 1):
        place = f", paragraph {number}" if "paragraphs" in values else ""
        questions = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
        if not isinstance(questions, list):
            yield place, {"question": None, "context": None}
            continue
        for index, question in enumerate(questions, 1):
            row = {**question} if isinstance(question, Mapping) else {}
            yield f"{place}, question {row.get('id', index)}", {**row, "context": paragraph.get("context")}


def _read(value: Any) -> tuple[list[dict[str, Any]], str | None]:
    if value is None or value == "":
        return [], None
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        texts, starts = value["text"], value.get("answer_start", value.get("start"))
        if not isinstance(starts, list) or len(starts) != len(texts):
            return [], f"'answers' has {len(texts)} of 'text' but not as many of 'answer_start'"
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(answer, Mapping) for answer in value):
        return [], "'answers' is not a list of answers, each with 'text' and 'answer_start'"
    answers = [{"text": one.get("text"), "start": one.get("answer_start", one.get("start"))} for one in value]
    return [answer for answer in answers if answer["text"] != ""], None


def _find_fault(answer: Mapping[str, Any], context: str) -> str | None:
    text, start = answer["text"], answer["start"]
    if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
        return "an answer needs 'text' (a text) and 'answer_start' (a whole number)"
    if not text.strip():
        return "an answer is empty"
    if start >= 0 and context[start : start + len(text)] == text:
        return None
    found = context.find(text)
    elsewhere = f"it is at {found}" if found >= 0 else "it is nowhere in the context"
    return f"the answer '{_shorten(text)}' is not at character {start} of its context: {elsewhere}"


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_QUOTED else text[: MAX_QUOTED - 1] + "…"
