"""Bodies of OpenAI's responses: complete, or in chunks."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from fastserve_server.generation.jobs import Delta
from fastserve_server.openai_schemas import (
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
from fastserve_server.requests import Answers


class ResponseBuilder(ABC):
    """Builds the bodies of one response, complete or in chunks.

    Args:
        model: Name of the model.
    """

    prefix: ClassVar[str]

    def __init__(self, model: str) -> None:
        self.common: dict[str, Any] = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    @abstractmethod
    def response(self, texts: Answers, usage: Usage) -> Body:
        """Build a complete response from the texts of ``collect``."""

    def begin(self, count: int) -> list[Body]:
        """Build the chunks before the first token of so many choices."""
        return []

    @abstractmethod
    def chunk(self, choice: int, delta: Delta) -> Body:
        """Build the chunk of a delta; ``choice`` is the index of its text."""

    @abstractmethod
    def usage(self, usage: Usage) -> Body:
        """Build the last chunk, with the number of tokens."""


class Completions(ResponseBuilder):
    """Builds completions."""

    prefix = "cmpl"

    def response(self, texts: Answers, usage: Usage) -> Body:
        """Build a complete response."""
        choices = [TextChoice(index, text["text"], text["finish"]) for index, text in enumerate(texts)]
        return Completion(**self.common, choices=choices, usage=usage)

    def chunk(self, choice: int, delta: Delta) -> Body:
        """Build the chunk of a delta."""
        return Completion(**self.common, choices=[TextChoice(choice, delta.text, delta.finish)])

    def usage(self, usage: Usage) -> Body:
        """Build the last chunk."""
        return Completion(**self.common, choices=[], usage=usage)


class Chats(ResponseBuilder):
    """Builds chat completions."""

    prefix = "chatcmpl"

    def response(self, texts: Answers, usage: Usage) -> Body:
        """Build a complete response."""
        choices = [
            ChatChoice(index, AssistantMessage(text["text"]), text["finish"]) for index, text in enumerate(texts)
        ]
        return Chat(**self.common, choices=choices, usage=usage)

    def begin(self, count: int) -> list[Body]:
        """Build the chunks with the assistant's role."""
        delta = {"role": "assistant", "content": ""}
        return [ChatChunk(**self.common, choices=[DeltaChoice(index, delta)]) for index in range(count)]

    def chunk(self, choice: int, delta: Delta) -> Body:
        """Build the chunk of a delta."""
        content = {"content": delta.text} if delta.text else {}
        return ChatChunk(**self.common, choices=[DeltaChoice(choice, content, delta.finish)])

    def usage(self, usage: Usage) -> Body:
        """Build the last chunk."""
        return ChatChunk(**self.common, choices=[], usage=usage)
