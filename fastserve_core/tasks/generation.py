"""Texts that are written token by token, many side by side: what an engine and a task give for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

KV_BLOCK_SIZE = 32
"""Tokens whose keys and values lie together: what a text's memory is counted in. OpenVINO's is as large."""


@dataclass(frozen=True, slots=True)
class SequenceChunk:
    """Tokens of one text for one pass: the next ones of its prompt, or the one that was chosen last.

    ``past`` tokens of the text went before. ``blocks`` are numbers of blocks, in the order of the text, with room for
    all tokens up to the last of these; each text has its own.
    """

    tokens: Sequence[int]
    num_cached_tokens: int
    blocks: Sequence[int]


class DecodeEngine(Protocol):
    """A causal language model with the keys and values of many texts. Use it in the thread that made it."""

    blocks: int
    """How many there are, numbered from 0."""
    eos_token_ids: frozenset[int]
    """Tokens that end a text."""

    def step(self, pieces: Sequence[SequenceChunk]) -> np.ndarray[Any, Any]:
        """One pass over all pieces: fp32 logits (pieces, vocabulary) of the token after the last of each."""

    def close(self) -> None:
        """Free the model and its cache."""


class IncrementalDetokenizer(Protocol):
    """One text, token by token."""

    def add(self, token: int) -> str:
        """What the token completes: a character may be of several."""

    def end(self) -> str:
        """What is left, where the text ends within a character."""


class TextCodec(Protocol):
    """Texts to tokens and back, for one model folder; from any thread."""

    vocabulary: int
    """How many tokens there are."""

    def tokens(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        """The whole texts, none of them cut; with the special tokens that the model's texts begin with."""

    def speller(self) -> IncrementalDetokenizer:
        """For one text."""

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the model's chat template makes; raises ``DataError`` where it has none, or refuses."""
