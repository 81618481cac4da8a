"""Bodies of OpenAI's responses: complete, or in chunks."""

from __future__ import annotations

import time
import uuid
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar

from typing_extensions import override

from fastserve_core.tasks import GeneratedText, TextDelta, TextResponse, TokenLogprob
from fastserve_text.openai_bodies import (
    AssistantMessage,
    Body,
    Chat,
    ChatChoice,
    ChatChunk,
    ChatLogprob,
    ChatLogprobs,
    Completion,
    CompletionLogprobs,
    DeltaChoice,
    TextChoice,
    TopLogprob,
    Usage,
)
from fastserve_text.text_codec import INCOMPLETE


class OpenAIResponse(TextResponse):
    """Builds the bodies of one response.

    Args:
        model: Name of the model.
        include_usage: Whether the last chunk of a stream has the number of tokens.
        with_logprobs: Whether log-probabilities were requested.
    """

    prefix: ClassVar[str]
    chunk_class: ClassVar[type[Completion | ChatChunk]]

    def __init__(self, model: str, include_usage: bool, with_logprobs: bool) -> None:
        self.include_usage, self.with_logprobs = include_usage, with_logprobs
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
        choices = [
            TextChoice(index, text.text, text.finish, self._logprobs(text.logprobs)) for index, text in enumerate(texts)
        ]
        return Completion(**self.common, choices=choices, usage=_usage(prompt_tokens, _count(texts)))

    @override
    def chunk(self, index: int, delta: TextDelta) -> Body:
        begin = self._offsets[index]
        self._offsets[index] += sum(len(one.text) for one in delta.logprobs)
        choice = TextChoice(index, delta.text, delta.finish, self._logprobs(delta.logprobs, begin))
        return Completion(**self.common, choices=[choice])

    @cached_property
    def _offsets(self) -> Counter[int]:
        """The number of characters of the tokens so far, by the index of the text."""
        return Counter()

    def _logprobs(self, logprobs: Sequence[TokenLogprob], begin: int = 0) -> CompletionLogprobs | None:
        if not self.with_logprobs:
            return None
        ends = list(accumulate((len(one.text) for one in logprobs), initial=begin))
        return CompletionLogprobs(
            [one.text for one in logprobs],
            [one.logprob for one in logprobs],
            [dict(one.top) for one in logprobs],
            ends[:-1],
        )


class ChatResponse(OpenAIResponse):
    """Builds chat completions."""

    prefix = "chatcmpl"
    chunk_class = ChatChunk

    @override
    def complete(self, texts: Sequence[GeneratedText], prompt_tokens: int) -> Body:
        choices = [
            ChatChoice(index, AssistantMessage(text.text), text.finish, self._logprobs(text.logprobs))
            for index, text in enumerate(texts)
        ]
        return Chat(**self.common, choices=choices, usage=_usage(prompt_tokens, _count(texts)))

    @override
    def begin(self, count: int) -> list[Body]:
        delta = {"role": "assistant", "content": ""}
        return [ChatChunk(**self.common, choices=[DeltaChoice(index, delta)]) for index in range(count)]

    @override
    def chunk(self, index: int, delta: TextDelta) -> Body:
        content = {"content": delta.text} if delta.text else {}
        choice = DeltaChoice(index, content, delta.finish, self._logprobs(delta.logprobs))
        return ChatChunk(**self.common, choices=[choice])

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        if not self.with_logprobs:
            return None
        return ChatLogprobs(
            [
                ChatLogprob(
                    one.text, one.logprob, _bytes(one.text), [TopLogprob(*top, _bytes(top[0])) for top in one.top]
                )
                for one in logprobs
            ]
        )


def _bytes(text: str) -> list[int] | None:
    return None if INCOMPLETE in text else list(text.encode())


def _count(texts: Sequence[GeneratedText]) -> int:
    return sum(text.tokens for text in texts)


def _usage(prompt_tokens: int, tokens: int) -> Usage:
    return Usage(prompt_tokens, tokens, prompt_tokens + tokens)
