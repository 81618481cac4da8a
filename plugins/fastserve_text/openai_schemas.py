"""Requests of OpenAI's API, with the parameters that servers support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from fastserve_core.errors import DataError
from fastserve_core.tasks import GenerationRequest, Sampling

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Positive = Annotated[int, Meta(ge=1)]
Stops = str | Annotated[list[str], Meta(max_length=16)] | None
MAX_CHOICES = 16
MAX_DIGITS = 18
MAX_COMPLETION_LOGPROBS, MAX_CHAT_LOGPROBS = 5, 20
Empty = Annotated[list[Any], Meta(max_length=0)]


class StreamOptions(Struct, forbid_unknown_fields=True):
    """Options of a streamed response."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class PlainText(Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    """Format of a response without constraints."""

    @property
    def json_schema_of_text(self) -> Mapping[str, Any] | None:
        """The JSON Schema that the text has to meet."""
        return None


class JsonObject(Struct, tag="json_object", tag_field="type", forbid_unknown_fields=True):
    """Format of a response that is any JSON object."""

    @property
    def json_schema_of_text(self) -> Mapping[str, Any]:
        """The JSON Schema that the text has to meet."""
        return {"type": "object"}


class NamedSchema(Struct, forbid_unknown_fields=True):
    """A JSON Schema with its name. Every response meets it, with ``strict`` or without."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class JsonSchema(Struct, tag="json_schema", tag_field="type", forbid_unknown_fields=True):
    """Format of a response that is valid against a JSON Schema."""

    json_schema: NamedSchema

    @property
    def json_schema_of_text(self) -> Mapping[str, Any]:
        """The JSON Schema that the text has to meet."""
        return self.json_schema.schema


ResponseFormat = PlainText | JsonObject | JsonSchema


class Parameters(Struct, kw_only=True, forbid_unknown_fields=True):
    """Common parameters of completions and chats. ``top_k`` and ``ignore_eos`` are extensions that vLLM also has.

    The fields in ``unsupported`` are those of the API, and common ones of other servers, that would change an answer
    and are not supported. Their types permit only the values that have no effect, which some clients send.
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"min_p", "repetition_penalty"})

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
    response_format: ResponseFormat | None = None

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
        schema = self.response_format.json_schema_of_text if self.response_format is not None else None
        return GenerationRequest(prompt, max_tokens, sampling, stops, seed, self.ignore_eos, self.num_logprobs, schema)

    @property
    def num_logprobs(self) -> int | None:
        """Number of most likely tokens whose log-probabilities are returned; ``None`` for no log-probabilities."""
        return None


def _token_id(name: str) -> int:
    if not (name.isascii() and name.isdecimal() and len(name) <= MAX_DIGITS):
        raise DataError(f"the keys of logit_bias must be token ids, and '{name[:100]}' is not")
    return int(name)


class CompletionRequest(Parameters, kw_only=True):
    """Body of ``/v1/completions``."""

    unsupported: ClassVar[frozenset[str]] = Parameters.unsupported | {"best_of", "echo", "suffix"}

    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
    """One or several texts, or the token ids of one or several."""
    max_tokens: Positive | None = 16
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_COMPLETION_LOGPROBS)] | None = None
    suffix: Literal[""] | None = None

    @property
    def num_logprobs(self) -> int | None:
        """See ``Parameters``."""
        return self.logprobs


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
        *("audio", "function_call", "functions", "modalities", "prediction", "reasoning_effort", "store"),
        *("tool_choice", "tools", "verbosity", "web_search_options"),
        *("annotations", "refusal", "tool_calls"),  # of messages
    }

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_CHAT_LOGPROBS)] | None = None
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_logprobs and not self.logprobs:
            raise ValueError("'top_logprobs' requires 'logprobs': true")

    @property
    def num_logprobs(self) -> int | None:
        """See ``Parameters``."""
        return (self.top_logprobs or 0) if self.logprobs else None
