"""The routes of the task: summaries in the shape of transformers' pipeline, and OpenAI's completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from fastserve_core.errors import DataError
from fastserve_core.tasks import GenerationRequest, PredictionRoute
from fastserve_text.openai_routes import Completions
from fastserve_text.openai_schemas import CompletionRequest


@dataclass
class SummarizeRequest:
    """Body of ``/summarize``: a text or several."""

    inputs: str | list[str]


@dataclass
class Summary:
    """An element of the answer."""

    summary_text: str


class Summarize(PredictionRoute):
    """Summarizes texts, with an answer as that of Hugging Face's inference API."""

    path = "/summarize"
    summary = "Summarize texts"
    request_type = SummarizeRequest
    response_type = list[Summary]

    @override
    def inputs(self, body: SummarizeRequest) -> list[str]:
        return [body.inputs] if isinstance(body.inputs, str) else body.inputs

    @override
    def response(
        self, body: SummarizeRequest, predictions: Sequence[Mapping[str, Any]], model: str
    ) -> list[dict[str, Any]]:
        return [{"summary_text": one["text"]} for one in predictions]


class AnswerCompletions(Completions):
    """Answers the prompt, which the encoder reads."""

    summary = "Answer a prompt"

    def __init__(self, positions: int | None) -> None:
        """Remember the most tokens that an answer can have; ``None`` if there is no bound."""
        self._positions = positions

    @override
    def generation_request(
        self, body: CompletionRequest, prompt: Sequence[int], index: int, limit: int
    ) -> GenerationRequest:
        request = super().generation_request(body, prompt, index, limit)
        if self._positions is not None and request.max_tokens > self._positions:
            raise DataError(f"max_tokens must be at most {self._positions}, the model's positions")
        return request
