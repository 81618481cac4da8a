"""OpenAI's requests and responses, as far as a model of one's own has what they ask for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from fastserve_core.errors import InvalidData
from fastserve_server.generation.jobs import GenerationRequest
from fastserve_server.generation.sampling import Sampling

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Positive = Annotated[int, Meta(ge=1)]
Stops = str | Annotated[list[str], Meta(max_length=16)] | None
CHOICES = 16


class StreamOptions(Struct):
    include_usage: bool = False


class Parameters(Struct, kw_only=True):
    """What completions and chats share. ``top_k`` and ``ignore_eos`` are additions that vLLM has as well."""

    model: str
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = 1.0
    top_k: Annotated[int, Meta(ge=0)] | None = 0
    n: Annotated[int, Meta(ge=1, le=CHOICES)] | None = 1
    stop: Stops = None
    seed: Annotated[int, Meta(ge=0)] | None = None
    presence_penalty: Penalty | None = 0.0
    frequency_penalty: Penalty | None = 0.0
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    ignore_eos: bool = False
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Clients send it; it changes nothing."""

    def to_request(self, prompt: list[int], most: int, choice: int) -> GenerationRequest:
        """The text of one choice, whose draws are its own."""
        sampling = Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=self.top_k or 0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={_token(name): bias for name, bias in (self.logit_bias or {}).items()},
        )
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        seed = None if self.seed is None else self.seed + choice
        return GenerationRequest(prompt, most, sampling, stops, seed, self.ignore_eos)


def _token(name: str) -> int:
    if not name.isdecimal():
        raise InvalidData(f"logit_bias is by the numbers of tokens, and '{name}' is none")
    return int(name)


class CompletionRequest(Parameters, kw_only=True):
    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
    """One or several texts, or the tokens of one or several."""
    max_tokens: Positive | None = 16
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    logprobs: None = None
    suffix: None = None


class TextPart(Struct, tag="text", tag_field="type"):
    text: str


class Message(Struct):
    role: str
    content: str | list[TextPart]


class ChatRequest(Parameters, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    logprobs: Literal[False] | None = None
    tools: None = None


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Body(Struct, kw_only=True):
    """What every answer, and every part of one, has."""

    id: str
    created: int
    model: str
    usage: Usage | UnsetType = UNSET


class TextChoice(Struct):
    index: int
    text: str
    finish_reason: str | None
    logprobs: None = None


class Completion(Body, kw_only=True):
    choices: list[TextChoice]
    object: str = "text_completion"


class AssistantMessage(Struct):
    content: str
    role: str = "assistant"


class ChatChoice(Struct):
    index: int
    message: AssistantMessage
    finish_reason: str
    logprobs: None = None


class Chat(Body, kw_only=True):
    choices: list[ChatChoice]
    object: str = "chat.completion"


class DeltaChoice(Struct):
    index: int
    delta: dict[str, Any]
    finish_reason: str | None = None
    logprobs: None = None


class ChatChunk(Body, kw_only=True):
    choices: list[DeltaChoice]
    object: str = "chat.completion.chunk"
