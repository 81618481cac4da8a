"""Generation token by token: requests, results, and the interfaces of engines and of text codecs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from fastserve_core.tasks.encoded import Row

KV_BLOCK_SIZE = 32
"""Tokens whose keys and values lie together, the unit of a text's memory. OpenVINO's is as large."""


@dataclass(frozen=True)
class Sampling:
    """OpenAI's sampling parameters.

    Attributes:
        temperature: Divides the logits; 0 selects the most likely token.
        top_p: Probability mass of the most likely tokens to draw from; 1 keeps all.
        top_k: Number of most likely tokens to draw from; 0 keeps all.
        presence_penalty: Subtracted from the logits of tokens that the text has.
        frequency_penalty: Subtracted once for each occurrence of a token in the text.
        logit_bias: Added to the logits, by token id.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


class TokenConstraint(Protocol):
    """Which tokens may continue one text, such as those that keep it valid JSON."""

    def allowed(self) -> np.ndarray[Any, Any]:
        """Return which tokens may come next, as booleans of shape (tokens,); the end token if the text may end."""

    def add(self, token: int) -> None:
        """Continue the text with an allowed token."""


@dataclass(frozen=True)
class GenerationRequest:
    """Request for one text.

    Attributes:
        prompt: Token ids of the prompt.
        max_tokens: Maximum number of new tokens.
        sampling: How the next token is chosen.
        stops: Strings that end the text; they are not part of it.
        seed: Seed of the random draws; ``None`` for a different text each time.
        ignore_eos: Whether to continue after the model's end token.
        num_logprobs: Number of most likely tokens whose log-probabilities are returned beside that of each chosen one;
            ``None`` for no log-probabilities.
        json_schema: JSON Schema of the text; ``None`` for any text.
        adapter: Name of the adapter that changes the model; ``None`` for the base model.
    """

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stops: Sequence[str] = ()
    seed: int | None = None
    ignore_eos: bool = False
    num_logprobs: int | None = None
    json_schema: Mapping[str, Any] | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probability of a token by the model, before sampling parameters.

    Attributes:
        text: Characters of the token alone.
        logprob: Its natural logarithm.
        top: The most likely tokens and theirs, the most likely first.
    """

    text: str
    logprob: float
    top: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True)
class TextDelta:
    """New part of a text.

    Attributes:
        text: New characters.
        tokens: Number of new tokens.
        finish: Reason of the end: ``stop`` after an end token or a stop string, ``length`` after ``max_tokens``;
            ``None`` before the end.
        logprobs: Those of the new tokens but the end token, if they were requested.
    """

    text: str
    tokens: int
    finish: str | None = None
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True)
class GeneratedText:
    """Complete text; the attributes are those of ``TextDelta``, over all of its parts."""

    text: str
    tokens: int
    finish: str
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True, slots=True)
class SequenceChunk:
    """Tokens of one text for one pass: the next ones of its prompt, or the one that was chosen last.

    ``past`` tokens of the text went before. ``blocks`` are numbers of blocks, in the order of the text, with room for
    all tokens up to the last of these; each text has its own. The first ``prompt_length`` tokens of the text are its
    prompt, which a model with an encoder reads as a whole. ``adapter`` is the name of the one that changes the model.
    The last ``num_guessed`` tokens are guesses, to be checked by the logits before them.
    """

    tokens: Sequence[int]
    num_cached_tokens: int
    blocks: Sequence[int]
    prompt_length: int = 0
    adapter: str | None = None
    num_guessed: int = 0


class DecodeEngine(Protocol):
    """A causal language model with the keys and values of many texts. Use it in the thread that made it."""

    blocks: int
    """How many there are, numbered from 0."""
    eos_token_ids: frozenset[int]
    """Tokens that end a text."""
    shares_prefixes: bool
    """Whether texts that begin alike may have the same blocks for their beginning."""
    checks_guesses: bool
    """Whether pieces may have guesses."""

    def step(self, pieces: Sequence[SequenceChunk]) -> np.ndarray[Any, Any]:
        """One pass over all pieces: fp32 logits (rows, vocabulary) of the token after the last of each.

        A piece with guesses has a row more for each of them: those after its last ``num_guessed + 1`` tokens.
        """

    def close(self) -> None:
        """Free the model and its cache."""


class IncrementalDetokenizer(Protocol):
    """One text, token by token."""

    def add(self, token: int) -> str:
        """Return the characters that the token completes; one may need several tokens."""

    def end(self) -> str:
        """Return the rest of a text that ends within a character."""


class TextCodec(Protocol):
    """Texts to tokens and back, for one model folder; from any thread."""

    vocabulary: int
    """How many tokens there are."""

    def tokens(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        """The whole texts, none of them cut; with the special tokens that the model's texts begin with."""

    def speller(self) -> IncrementalDetokenizer:
        """For one text."""

    def token_text(self, token: int) -> str:
        """The characters of one token alone, special ones included."""

    def prompt(self, row: Row) -> tuple[str, bool]:
        """The prompt for a row of ``Task.read_input``, and whether its tokens need the special ones."""

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the model's chat template makes; raises ``DataError`` if it has none, or refuses."""

    def constrain(self, schema: Mapping[str, Any]) -> TokenConstraint:
        """Make a constraint for one text that is valid against a JSON Schema.

        Raises:
            DataError: The schema is not valid, or no text can meet it.
        """
