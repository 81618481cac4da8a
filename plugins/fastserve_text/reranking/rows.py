"""The rows of the task: a query with a document and a score, or with a right document and others that are not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastserve_core.errors import DataError
from fastserve_core.tasks import Column, Row
from fastserve_text.base import validate_text
from fastserve_text.embedding.rows import NEGATIVE, normalize_row

QUERY = Column(
    "query",
    title="Query",
    usual_names=("question", "anchor", "text", "sentence1", "premise", "question1", "查询", "问题"),
)
DOCUMENT = Column(
    "document",
    title="Document",
    usual_names=(
        "positive", "answer", "passage", "context", "text_pair", "sentence2", "hypothesis", "question2", "response",
        "文档", "段落", "回答", "答案",
    ),
)  # fmt: skip
SCORE = Column(
    "score",
    required=False,
    is_label=True,
    usual_names=("label", "labels", "relevance", "similarity", "similarity_score", "评分", "分数", "标签"),
)
COLUMNS = (QUERY, DOCUMENT, NEGATIVE, SCORE)


def to_embedding_row(row: Row) -> Row:
    """Return a row with the names of columns that the task of embeddings has."""
    names = {"query": "text", "document": "positive"}
    return {names.get(name, name): value for name, value in row.items()}


def check_row(row: Row) -> str | None:
    """Bring a training row into its normal form; return why it cannot be used, or ``None``."""
    for name in ("query", "document"):
        if fault := validate_text(row, name):
            return fault
    renamed = to_embedding_row(row)
    fault = normalize_row(renamed)
    for name in ("negative", "score"):
        row.pop(name, None)
        if name in renamed:
            row[name] = renamed[name]
    return fault and fault.replace("'positive'", "'document'").replace("'text'", "'query'")


def read_input(value: Any) -> Row:
    """Return a row for an input of ``predict``: a query and a document, as a pair or by name.

    Raises:
        DataError: The input cannot be used.
    """
    if isinstance(value, (list, tuple)) and len(value) == 2:
        value = dict(zip(("query", "document"), value, strict=True))
    if not isinstance(value, Mapping):
        raise DataError("an input cannot be used: give a query and a document")
    row = {name: value.get(name) for name in ("query", "document")}
    for name in row:
        if fault := validate_text(row, name):
            raise DataError(f"an input cannot be used: {fault}")
    return row


def row_pairs(row: Row) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a row: the query with its document, and with each of the others."""
    for document in (row["document"], *(row.get("negative") or ())):
        yield row["query"], document
