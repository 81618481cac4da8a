"""Requests for texts, sequences that are being generated, and the streams that deliver them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastserve_core.tasks import GeneratedText, GenerationRequest, TextDelta, TokenConstraint
from fastserve_server.generation.prompt_lookup import PromptLookup
from fastserve_server.generation.stop_strings import StopStringFilter

STOP, LENGTH = "stop", "length"
"""Finish reasons of ``TextDelta``."""


class TokenStream:
    """Asynchronous iterator over the deltas of one text, for the event loop."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[TextDelta | Exception] = asyncio.Queue()
        self.cancelled = False

    def push(self, item: TextDelta | Exception) -> None:
        """Append a delta, or the error that ends the stream."""
        self._queue.put_nowait(item)

    def cancel(self) -> None:
        """Withdraw the request; the engine drops the text before its next pass."""
        self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[TextDelta]:
        while True:
            item = await self._queue.get()
            if isinstance(item, Exception):
                raise item
            yield item
            if item.finish:
                return


@dataclass(eq=False)
class TextSequence:
    """State of one text in the engine's thread; the last three fields belong to the scheduler.

    Args:
        request: The request for the text.
        stream: Delivers the text.
        text_filter: Decodes tokens and finds stop strings.
        random: Generator of the random draws.
        constraint: Which tokens may come next; ``None`` for all.
        lookup: Guesses the next tokens; ``None`` for no guesses.
        tokens: Token ids of the prompt and of the text so far.
        num_cached_tokens: Number of tokens with keys and values in ``blocks``.
        blocks: Indices of the blocks in the KV cache.
        block_keys: Keys of the full blocks of ``tokens``, as far as they were needed.
        num_published_blocks: Number of blocks that other sequences may find.
        counts: How often the text has each of its generated tokens.
        num_generated: Number of generated tokens.
        level: Index of the queue that the sequence is in.
        service: Cost of the passes at this level, in generated tokens.
        last_run_s: Time of the last pass, on the monotonic clock.
    """

    request: GenerationRequest
    stream: TokenStream
    text_filter: StopStringFilter
    random: np.random.Generator
    constraint: TokenConstraint | None = None
    lookup: PromptLookup | None = None
    tokens: list[int] = field(init=False)
    num_cached_tokens: int = 0
    blocks: list[int] = field(default_factory=list)
    block_keys: list[bytes] = field(default_factory=list)
    num_published_blocks: int = 0
    counts: Counter[int] = field(default_factory=Counter)
    num_generated: int = 0
    level: int = 0
    service: float = 0.0
    last_run_s: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def max_length(self) -> int:
        """Maximum number of tokens of prompt and text together."""
        return len(self.request.prompt) + self.request.max_tokens

    @property
    def num_pending_tokens(self) -> int:
        """Number of tokens that the model has not processed."""
        return len(self.tokens) - self.num_cached_tokens

    def guess(self, limit: int) -> list[int]:
        """Return guesses of the tokens after the last one, at most those that the text may still have."""
        most = min(limit, self.request.max_tokens - self.num_generated - 1)
        return [] if self.lookup is None or most < 1 else self.lookup.guess(self.tokens, most)

    def constrain(self, logits: Any) -> Any:
        """Return logits of shape (vocabulary,), with minus infinity for tokens that may not come next."""
        if self.constraint is None:
            return logits
        allowed = np.zeros(len(logits), dtype=bool)
        known = self.constraint.allowed()[: len(logits)]
        allowed[: len(known)] = known
        return np.where(allowed, logits, -np.inf)

    def append(self, token: int) -> None:
        """Add a generated token."""
        if self.constraint is not None:
            self.constraint.add(token)
        self.tokens.append(token)
        self.counts[token] += 1
        self.num_generated += 1


async def collect(streams: Sequence[TokenStream]) -> list[GeneratedText]:
    """Wait until all texts are complete; cancel the streams if this call is cancelled.

    Args:
        streams: Streams of ``GenerationEngine.submit``.

    Returns:
        The text of each stream.
    """
    try:
        return [await _collect(stream) for stream in streams]
    finally:
        for stream in streams:
            stream.cancel()


async def _collect(stream: TokenStream) -> GeneratedText:
    deltas = [delta async for delta in stream]
    text = "".join(delta.text for delta in deltas)
    logprobs = tuple(logprob for delta in deltas for logprob in delta.logprobs)
    return GeneratedText(text, sum(delta.tokens for delta in deltas), deltas[-1].finish or LENGTH, logprobs)
