"""Documents of files: the text, the id and the other fields of each record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import hash_file, hash_files
from fastserve_core.data import file_source, find_columns
from fastserve_core.errors import DataError
from fastserve_core.tasks import Column, plain_value
from fastserve_search.filters import field_value
from fastserve_search.store import Document

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

COLUMNS = (
    Column(
        "text",
        usual_names=("document", "passage", "content", "body", "article", "context", "sentence", "review",
                     "正文", "内容", "文本", "文档"),
    ),
    Column("id", required=False, usual_names=("doc_id", "_id", "docid", "document_id", "编号")),
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A file, and the documents of it."""

    name: str
    digest: str
    documents: list[Document]


def read_sources(given: list[str], data: DataOptions, report: Callable[[str], None]) -> Iterator[Source]:
    """Yield the documents of files; an id that no column gives is the file's name, with the line of a row.

    Args:
        given: Files, folders or patterns.
        data: The options of reading, with ``max_bad_rows``: the number of empty documents that may be left out.
        report: Called with a message for each guess, and each document that is left out.

    Raises:
        DataError: A file cannot be read, two documents have one id, or too many are empty.
    """
    seen, bad = dict[str, str](), 0
    for path, found in file_source().documents(given, "FILE", data, report):
        columns, records = find_columns(found, COLUMNS, data.columns, report)
        documents = list[Document]()
        for record in records:
            row, fault = columns.read_row(record.values) if record.values is not None else ({}, record.fault)
            fault = fault or _find_fault(row)
            if fault:
                bad += 1
                if bad > data.max_bad_rows:
                    raise DataError(f"{record.where}: {fault}; data.max_bad_rows={bad} leaves out as many documents")
                report(f"left out: {record.where}: {fault}")
                continue
            where = _shorten(record.where)
            name = str(row["id"]) if row.get("id") not in (None, "") else where
            if name in seen:
                raise DataError(f"{where}: the document of {seen[name]} has the same id '{name}'")
            seen[name] = where
            used = set(columns.names.values())
            others = {str(key): plain_value(value) for key, value in (record.values or {}).items() if key not in used}
            fields = {key: value for key, value in others.items() if field_value(value) is not None}
            documents.append(Document(name, row["text"], fields, where))
        yield Source(_shorten(str(path)), _digest(path), documents)


def _find_fault(row: dict[str, Any]) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        return f"the text is {type(text).__name__}, not a text"
    return "" if text.strip() else "the document is empty"


def _shorten(where: str) -> str:
    """Return a location relative to the working folder, if it is in it."""
    return where.removeprefix(f"{Path.cwd()}/")


def _digest(path: Path) -> str:
    return hash_file(path) if path.is_file() else str(hash_files(path))
