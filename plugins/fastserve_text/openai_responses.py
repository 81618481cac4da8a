"""Bodies of OpenAI's responses: complete, or in chunks."""

from __future__ import annotations

import time
import uuid
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from typing_extensions import override

from fastserve_core.tasks import GeneratedText, TextDelta, TextResponse
from fastserve_text.openai_schemas import (
    AssistantMessage,
    Body,
    Chat,
    ChatChoice,
    ChatChunk,
    Completion,
    DeltaChoice,
    TextChoice,
    Usage,
)


class OpenAIResponse(TextResponse):
    """Builds the bodies of one response.

    Args:
        model: Name of the model.
        include_usage: Whether the last chunk of a stream has the number of tokens.
    """

    prefix: ClassVar[str]
    chunk_class: ClassVar[type[Completion | ChatChunk]]

    def __init__(self, model: str, include_usage: bool) -> None:
        self.include_usage = include_usage
        self.common: dict[str, Any] = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    @override
    @abstractmethod
    def complete(self, texts: Sequence[GeneratedText], prompt_tokens: int) -> Body:
        """Build a complete response."""

    @override
    def end(self, prompt_tokens: int, tokens: int) -> list[Body]:
        if not self.include_usage:
            return []
        return [self.chunk_class(**self.common, choices=[], usage=_usage(prompt_tokens, tokens))]


class CompletionResponse(OpenAIResponse):
    """Builds completions."""

    prefix = "cmpl"
    chunk_class = Completion

    @override
    def complete(self, texts: Sequence[GeneratedText], prompt_tokens: int) -> Body:
        choices = [TextChoice(index, text.text, text.finish) for index, text in enumerate(texts)]
        return Completion(**self.common, choices=choices, usage=_usage(prompt_tokens, _count(texts)))

    @override
    def chunk(self, index: int, delta: TextDelta) -> Body:
        return Completion(**self.common, choices=[TextChoice(index, delta.text, delta.finish)])


class ChatResponse(OpenAIResponse):
    """Builds chat completions."""

    prefix = "chatcmpl"
    chunk_class = ChatChunk

    @override
    def complete(self, texts: Sequence[GeneratedText], prompt_tokens: int) -> Body:
        choices = [ChatChoice(index, AssistantMessage(text.text), text.finish) for index, text in enumerate(texts)]
        return Chat(**self.common, choices=choices, usage=_usage(prompt_tokens, _count(texts)))

    @override
    def begin(self, count: int) -> list[Body]:
        delta = {"role": "assistant", "content": ""}
        return [ChatChunk(**self.common, choices=[DeltaChoice(index, delta)]) for index in range(count)]

    @override
    def chunk(self, index: int, delta: TextDelta) -> Body:
        content = {"content": delta.text} if delta.text else {}
        return ChatChunk(**self.common, choices=[DeltaChoice(index, content, delta.finish)])


def _count(texts: Sequence[GeneratedText]) -> int:
    return sum(text.tokens for text in texts)


def _usage(prompt_tokens: int, tokens: int) -> Usage:
    return Usage(prompt_tokens, tokens, prompt_tokens + tokens)
