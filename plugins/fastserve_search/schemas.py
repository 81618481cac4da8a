"""Requests and responses of the routes of an index."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

Text = Annotated[str, Meta(min_length=1)]


class SearchBody(Struct, forbid_unknown_fields=True):
    """Body of ``/search``; the fields after the query are the parameters of ``/predict``."""

    query: Text
    top_k: int | None = None
    mode: str | None = None
    filter: dict[str, Any] | None = None
    candidates: int | None = None
    rerank: bool | None = None
    answer: bool | None = None
    model: str | None = None


class FoundHit(Struct, omit_defaults=True):
    """A passage: its document's id and fields, and its characters in the document."""

    id: str
    score: float
    text: str
    start: int
    end: int
    fields: dict[str, Any]
    first_score: float | None = None


class FoundAnswer(Struct):
    """The reader's answer, and its characters in a document."""

    answer: str
    score: float
    id: str
    start: int
    end: int
    passage: str


class SearchResponse(Struct, omit_defaults=True):
    """Answer of ``/search``; ``truncated`` if the query was longer than the model reads."""

    hits: list[FoundHit]
    model: str
    answer: FoundAnswer | None = None
    truncated: bool = False


class NewDocument(Struct, forbid_unknown_fields=True):
    """A document to add."""

    id: Text
    text: Text
    fields: dict[str, Any] = {}


class AddBody(Struct, forbid_unknown_fields=True):
    """Body of ``/documents/add``: all documents are added, or none."""

    documents: Annotated[list[NewDocument], Meta(min_length=1)]
    replace: bool = False
    model: str | None = None


class AddResponse(Struct):
    """Answer of ``/documents/add``: the numbers of the addition, and the number of documents of the index."""

    documents: int
    passages: int
    truncated: int
    total: int


class DeleteBody(Struct, forbid_unknown_fields=True):
    """Body of ``/documents/delete``."""

    ids: Annotated[list[Text], Meta(min_length=1)]
    model: str | None = None


class DeleteResponse(Struct):
    """Answer of ``/documents/delete``: the ids that no document had, and the number of documents of the index."""

    deleted: int
    unknown: list[str]
    total: int
