"""The task's own HTTP route, which both servers mount."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fastserve_core.errors import DataError
from fastserve_core.tasks import PredictionRoute


@dataclass
class TagRequest:
    """``limit`` is the largest number of labels of a message."""

    messages: list[str]
    limit: int = 3
    model: str | None = None


@dataclass
class TagResponse:
    """The labels of each message, the best first."""

    tags: list[list[str]]


class Tag(PredictionRoute):
    """``POST /tag``: the labels of messages without their scores."""

    path: ClassVar[str] = "/tag"
    summary: ClassVar[str] = "Return the labels of each message, the best first"
    request_type: ClassVar[type] = TagRequest
    response_type: ClassVar[type] = TagResponse

    def inputs(self, body: TagRequest) -> list[str]:
        if body.limit < 1:
            raise DataError(f"limit must be at least 1, not {body.limit}")
        return body.messages

    def response(self, body: TagRequest, predictions: Sequence[Mapping[str, Any]], model: str) -> TagResponse:
        ordered = [sorted(one["labels"], key=one["scores"].__getitem__, reverse=True) for one in predictions]
        return TagResponse([labels[: body.limit] for labels in ordered])
