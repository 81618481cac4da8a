"""Bodies of responses of OpenAI's API."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType


class Usage(Struct):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Body(Struct, kw_only=True):
    """Common fields of responses and chunks."""

    id: str
    created: int
    model: str
    usage: Usage | UnsetType = UNSET


class CompletionLogprobs(Struct):
    """Log-probabilities of a completion's tokens; ``text_offset`` is where each begins, in characters."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TopLogprob(Struct):
    """Log-probability of a token of an answer; ``bytes`` is ``None`` for a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(TopLogprob):
    """Log-probability of a chosen token, with those of the most likely ones."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    """Log-probabilities of an answer's tokens."""

    content: list[ChatLogprob]
    refusal: None = None


class TextChoice(Struct):
    """Text of a completion."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: CompletionLogprobs | None = None


class Completion(Body, kw_only=True):
    """Completion, or a chunk of it."""

    choices: list[TextChoice]
    object: str = "text_completion"


class AssistantMessage(Struct):
    """Answer in a conversation."""

    content: str
    role: str = "assistant"


class ChatChoice(Struct):
    """Answer of a chat completion."""

    index: int
    message: AssistantMessage
    finish_reason: str
    logprobs: ChatLogprobs | None = None


class Chat(Body, kw_only=True):
    """Complete chat completion."""

    choices: list[ChatChoice]
    object: str = "chat.completion"


class DeltaChoice(Struct):
    """Part of an answer."""

    index: int
    delta: dict[str, Any]
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None


class ChatChunk(Body, kw_only=True):
    """Chunk of a streamed chat completion."""

    choices: list[DeltaChoice]
    object: str = "chat.completion.chunk"
