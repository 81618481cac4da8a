"""OpenAI's completions and chat completions as routes of a generative task. Imported by servers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from typing_extensions import override

from fastserve_core.errors import DataError, did_you_mean
from fastserve_core.tasks import GenerationRequest, GenerationRoute, TextCodec
from fastserve_text.openai_bodies import Chat, Completion
from fastserve_text.openai_responses import ChatResponse, CompletionResponse, OpenAIResponse
from fastserve_text.openai_schemas import ChatRequest, CompletionRequest, Parameters

MAX_SHOWN = 30
ROLES = {role: role for role in ("system", "user", "assistant", "tool", "function")} | {"developer": "system"}
"""The roles of OpenAI's API, by the names that chat templates have for them."""
DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for completions."""


class OpenAIRoute(GenerationRoute):
    """The common part of OpenAI's routes."""

    response_class: ClassVar[type[OpenAIResponse]]

    @override
    def num_texts(self, body: Parameters) -> int:
        return body.n or 1

    @override
    def wants_stream(self, body: Parameters) -> bool:
        return bool(body.stream)

    @override
    def response(self, body: Parameters, model: str) -> OpenAIResponse:
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        return self.response_class(model, include_usage, body.num_logprobs is not None)


class Completions(OpenAIRoute):
    """Continues prompts."""

    path = "/v1/completions"
    summary = "Continue a prompt"
    request_type = CompletionRequest
    response_type = Completion
    response_class = CompletionResponse

    @override
    def prompts(self, body: CompletionRequest, codec: TextCodec) -> list[list[int]]:
        items = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        texts = [item for item in items if isinstance(item, str)]
        tokens = [item for item in items if isinstance(item, int)]
        lists = [item for item in items if isinstance(item, list)]
        if len(items) not in (len(texts), len(tokens), len(lists)):
            raise DataError("a prompt must be texts, or tokens, or lists of tokens, not a mixture of them")
        if texts:
            return codec.tokens(texts)
        return [tokens] if tokens else lists

    @override
    def generation_request(
        self, body: CompletionRequest, prompt: Sequence[int], index: int, limit: int
    ) -> GenerationRequest:
        return body.to_request(prompt, body.max_tokens or DEFAULT_MAX_TOKENS, index)


class ChatCompletions(OpenAIRoute):
    """Answers conversations."""

    path = "/v1/chat/completions"
    summary = "Answer a conversation"
    request_type = ChatRequest
    response_type = Chat
    response_class = ChatResponse

    @override
    def prompts(self, body: ChatRequest, codec: TextCodec) -> list[list[int]]:
        messages = [
            {"role": _role(message.role, number), "content": _text(message.content)}
            for number, message in enumerate(body.messages)
        ]
        # the chat template adds the special tokens
        return codec.tokens([codec.chat(messages)], special=False)

    @override
    def generation_request(self, body: ChatRequest, prompt: Sequence[int], index: int, limit: int) -> GenerationRequest:
        return body.to_request(prompt, body.max_completion_tokens or body.max_tokens or limit, index)


def _role(role: str, number: int) -> str:
    """Return a role as chat templates name it; each template decides which ones it takes, and in which order."""
    if role not in ROLES:
        hint = did_you_mean(role, ROLES)
        raise DataError(f"messages[{number}] has the unknown role '{role[:MAX_SHOWN]}'{hint}")
    return ROLES[role]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
