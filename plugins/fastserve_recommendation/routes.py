"""The route of recommendations for one history or for several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fastserve_core.errors import DataError
from fastserve_core.tasks import PredictionRoute


@dataclass(frozen=True)
class RecommendRequest:
    """A history of items, the last one at the end."""

    items: list[str | int]
    k: int | None = None
    model: str | None = None


@dataclass(frozen=True)
class Recommendation:
    """A recommended item."""

    id: str
    score: float


@dataclass(frozen=True)
class RecommendResponse:
    """The recommended items, the best one first."""

    items: list[Recommendation]
    unknown: list[str]
    basis: str
    model: str


class Recommend(PredictionRoute):
    """``POST /recommend``: ``{"items": […], "k": 10}`` to ``{"items": [{"id": …, "score": …}], …}``."""

    path: ClassVar[str] = "/recommend"
    summary: ClassVar[str] = "Recommend items for a history"
    request_type: ClassVar[Any] = RecommendRequest
    response_type: ClassVar[Any] = RecommendResponse

    def inputs(self, body: RecommendRequest) -> Sequence[Any]:
        """Return the history as an input of ``/predict``.

        Raises:
            DataError: ``k`` is less than 1.
        """
        if body.k is not None and body.k < 1:
            raise DataError(f"k must be at least 1, not {body.k}")
        return [{"items": body.items, "k": body.k}]

    def response(
        self, body: RecommendRequest, predictions: Sequence[Mapping[str, Any]], model: str
    ) -> RecommendResponse:
        """Return the answer as an object."""
        answer = predictions[0]
        items = [Recommendation(item["id"], item["score"]) for item in answer["items"]]
        return RecommendResponse(items, answer["unknown"], answer["basis"], model)
