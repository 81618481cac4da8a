"""The rows of the task: a text with texts that are close to it or not, or with another text and their similarity."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from fastserve_core.errors import DataError
from fastserve_core.tasks import Column, Row, plain_value
from fastserve_text.base import validate_text

TEXT = Column(
    "text",
    title="Text",
    usual_names=(
        "anchor", "query", "question", "sentence1", "premise", "question1", "texts", "sentence", "content", "文本",
        "句子", "句子1", "问题", "查询",
    ),
)  # fmt: skip
POSITIVE = Column(
    "positive",
    required=False,
    is_label=True,
    usual_names=(
        "document", "answer", "passage", "sentence2", "hypothesis", "question2", "text_pair", "response", "文档",
        "句子2", "回答", "答案", "段落",
    ),
)  # fmt: skip
NEGATIVE = Column(
    "negative",
    required=False,
    is_label=True,
    usual_names=("negatives", "hard_negative", "hard_negatives", "负例"),
    takes_several=True,
)
SCORE = Column(
    "score",
    required=False,
    is_label=True,
    usual_names=("similarity_score", "similarity", "label", "评分", "分数", "相似度"),
)
COLUMNS = (TEXT, POSITIVE, NEGATIVE, SCORE)


def normalize_row(row: Row) -> str | None:
    """Bring a training row into its normal form; return why it cannot be used, or ``None``.

    ``negative`` becomes a list of texts, and ``score`` a number. A column without a value is removed.
    """
    for column in COLUMNS[1:]:
        if row.get(column.name) is None or row[column.name] == "":
            row.pop(column.name, None)
    if fault := validate_text(row):
        return fault
    if "positive" not in row:
        return "'positive' is missing: a row has a text and another one that is close to it, or their score"
    if fault := validate_text(row, "positive"):
        return fault
    if "score" in row:
        return "'score' and 'negative' are in one row: a row has one of them" if "negative" in row else _read_score(row)
    return _read_negatives(row)


def _read_score(row: Row) -> str | None:
    value = plain_value(row["score"])
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        return f"'score' is not a finite number: {value!r}"
    row["score"] = number
    return None


def _read_negatives(row: Row) -> str | None:
    value = plain_value(row.get("negative"))
    if isinstance(value, dict):  # several columns
        value = [text for text in value.values() if text is not None]
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        return f"'negative' is {type(value).__name__}, not a text or a list of texts"
    for text in texts:
        if fault := validate_text({"negative": text}, "negative"):
            return fault
        if text in (row["positive"], row["text"]):
            return "'negative' is the same text as 'positive' or 'text'"
    row.pop("negative", None)
    if texts:
        row["negative"] = list(dict.fromkeys(texts))
    return None


def row_texts(row: Row) -> Iterator[str]:
    """Yield the texts of a row: the first one, the one that is close to it, and those that are not."""
    yield row["text"]
    if row.get("positive"):
        yield row["positive"]
    yield from row.get("negative") or ()


def read_input(value: Any) -> Row:
    """Return a row for an input of ``predict``: a text, token ids, or a mapping with ``text`` and ``prompt_name``.

    Raises:
        DataError: The input cannot be used.
    """
    row = dict(value) if isinstance(value, dict) else {"tokens": value} if isinstance(value, list) else {"text": value}
    tokens = row.get("tokens")
    if tokens is None:
        if fault := validate_text(row):
            raise DataError(f"an input cannot be used: {fault}")
    elif not tokens or not all(type(token) is int and token >= 0 for token in tokens):
        raise DataError("an input cannot be used: its tokens are not numbers of a vocabulary")
    name = row.get("prompt_name")
    if name is not None and not isinstance(name, str):
        raise DataError("an input cannot be used: 'prompt_name' is not the name of a prompt")
    return row
