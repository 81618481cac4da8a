"""The routes of reranking: text-embeddings-inference's ``texts``, and Cohere's, Jina's and vLLM's ``documents``.

Imported by servers only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct
from typing_extensions import override

from fastserve_core.errors import DataError
from fastserve_core.tasks import PredictionRoute

Positive = Annotated[int, Meta(ge=1)]


class Document(Struct):
    """A document of a request or of an answer."""

    text: str


class RerankRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of both routes, with ``texts`` or with ``documents``."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"truncation_direction", "max_chunks_per_doc"})

    query: str
    texts: Annotated[list[str], Meta(min_length=1)] | None = None
    documents: Annotated[list[str | Document], Meta(min_length=1)] | None = None
    model: str | None = None
    return_text: bool = False
    raw_scores: bool = False
    truncate: bool | None = None
    truncation_direction: Literal["right", "Right"] | None = None
    top_n: Positive | None = None
    return_documents: bool = False
    max_chunks_per_doc: None = None

    def __post_init__(self) -> None:
        if (self.texts is None) == (self.documents is None):
            raise ValueError("give either 'texts' or 'documents'")


class Rank(Struct, omit_defaults=True):
    """The score of a text, by its number in the request."""

    index: int
    score: float
    text: str | None = None


class Result(Struct, omit_defaults=True):
    """The score of a document, by its number in the request."""

    index: int
    relevance_score: float
    document: Document | None = None


class Reranked(Struct):
    """The scores of documents, the best first."""

    model: str
    results: list[Result]


class Rerank(PredictionRoute):
    """Orders documents by their scores for a query."""

    path = "/rerank"
    summary = "Order documents by their relevance to a query"
    request_type = RerankRequest
    response_type = list[Rank] | Reranked

    @override
    def inputs(self, body: RerankRequest) -> Sequence[Any]:
        return [{"query": body.query, "document": text} for text in list_texts(body)]

    @override
    def response(
        self, body: RerankRequest, predictions: Sequence[Mapping[str, Any]], model: str
    ) -> list[Rank] | Reranked:
        if body.truncate is False and any(prediction.get("truncated") for prediction in predictions):
            raise DataError("a text is longer than the model reads: shorten it, or set 'truncate' to true")
        scores = [prediction["score"] for prediction in predictions]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
        texts = list_texts(body)
        if body.texts is not None:
            shown = [logit(score) for score in scores] if body.raw_scores else scores
            return [Rank(index, shown[index], texts[index] if body.return_text else None) for index in order]
        return Reranked(
            model,
            [
                Result(index, scores[index], Document(texts[index]) if body.return_documents else None)
                for index in order
            ],
        )


class RerankV1(Rerank):
    """The same route at the other path that clients use."""

    path = "/v1/rerank"


def list_texts(body: RerankRequest) -> list[str]:
    """Return the documents of a request."""
    if body.texts is not None:
        return body.texts
    return [document if isinstance(document, str) else document.text for document in body.documents or ()]


def logit(score: float) -> float:
    """Return the model's output for a probability."""
    bounded = min(max(score, 1e-15), 1 - 1e-15)
    return math.log(bounded / (1 - bounded))
