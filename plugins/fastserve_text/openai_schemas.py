"""Requests and responses of OpenAI's API, with the parameters that servers support."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from fastserve_core.errors import DataError
from fastserve_core.tasks import GenerationRequest, Sampling

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Positive = Annotated[int, Meta(ge=1)]
Stops = str | Annotated[list[str], Meta(max_length=16)] | None
MAX_CHOICES = 16
MAX_DIGITS = 18
Zero = Annotated[int, Meta(ge=0, le=0)]
Empty = Annotated[list[Any], Meta(max_length=0)]


class StreamOptions(Struct, forbid_unknown_fields=True):
    """Options of a streamed response."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class PlainText(Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    """Format of a response without constraints."""


class Parameters(Struct, kw_only=True, forbid_unknown_fields=True):
    """Common parameters of completions and chats. ``top_k`` and ``ignore_eos`` are extensions that vLLM also has.

    The fields in ``unsupported`` are those of the API, and common ones of other servers, that would change an answer
    and are not supported. Their types permit only the values that have no effect, which some clients send.
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"min_p", "repetition_penalty", "response_format"})

    model: str
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = 1.0
    top_k: Annotated[int, Meta(ge=0)] | None = 0
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = 1
    stop: Stops = None
    seed: Annotated[int, Meta(ge=0)] | None = None
    presence_penalty: Penalty | None = 0.0
    frequency_penalty: Penalty | None = 0.0
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    ignore_eos: bool = False
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Accepted for compatibility, and ignored."""
    min_p: Annotated[float, Meta(ge=0, le=0)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=1, le=1)] | None = None
    response_format: PlainText | None = None

    def __post_init__(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise ValueError("'stream_options' requires 'stream': true")

    def to_request(self, prompt: Sequence[int], max_tokens: int, choice: int) -> GenerationRequest:
        """Return the engine's request for one choice.

        Args:
            prompt: Token ids of the prompt.
            max_tokens: Maximum number of new tokens.
            choice: Index of the choice, added to the seed so that the choices differ.

        Raises:
            DataError: ``logit_bias`` has a key that is not a token id.
        """
        sampling = Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=self.top_k or 0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={_token_id(name): bias for name, bias in (self.logit_bias or {}).items()},
        )
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        seed = None if self.seed is None else self.seed + choice
        return GenerationRequest(prompt, max_tokens, sampling, stops, seed, self.ignore_eos)


def _token_id(name: str) -> int:
    if not (name.isascii() and name.isdecimal() and len(name) <= MAX_DIGITS):
        raise DataError(f"the keys of logit_bias must be token ids, and '{name[:100]}' is not")
    return int(name)


class CompletionRequest(Parameters, kw_only=True):
    """Body of ``/v1/completions``."""

    unsupported: ClassVar[frozenset[str]] = Parameters.unsupported | {"best_of", "echo", "logprobs", "suffix"}

    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
    """One or several texts, or the token ids of one or several."""
    max_tokens: Positive | None = 16
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    logprobs: None = None
    suffix: Literal[""] | None = None


class TextPart(Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    """Text part of a message."""

    text: str


class Message(Struct, forbid_unknown_fields=True):
    """Message of a conversation. The optional fields are those of an answer that a client sends back."""

    role: str
    content: str | list[TextPart]
    refusal: None = None
    annotations: Empty | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Empty | None = None


class ChatRequest(Parameters, kw_only=True):
    """Body of ``/v1/chat/completions``."""

    unsupported: ClassVar[frozenset[str]] = Parameters.unsupported | {
        *("audio", "function_call", "functions", "logprobs", "modalities", "prediction", "reasoning_effort", "store"),
        *("tool_choice", "tools", "top_logprobs", "verbosity", "web_search_options"),
        *("annotations", "refusal", "tool_calls"),  # of messages
    }

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Zero | None = None
    tools: Empty | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: Empty | None = None
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    prediction: None = None
    reasoning_effort: None = None
    store: Literal[False] | None = None
    verbosity: None = None
    web_search_options: None = None


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


class TextChoice(Struct):
    """Text of a completion."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: None = None


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
    logprobs: None = None


class Chat(Body, kw_only=True):
    """Complete chat completion."""

    choices: list[ChatChoice]
    object: str = "chat.completion"


class DeltaChoice(Struct):
    """Part of an answer."""

    index: int
    delta: dict[str, Any]
    finish_reason: str | None = None
    logprobs: None = None


class ChatChunk(Body, kw_only=True):
    """Chunk of a streamed chat completion."""

    choices: list[DeltaChoice]
    object: str = "chat.completion.chunk"
