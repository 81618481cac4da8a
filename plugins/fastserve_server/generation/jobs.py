"""One text that is being written: what was asked for, how far it is, and who listens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from fastserve_server.generation.sampling import Sampling
from fastserve_server.generation.stop_strings import StopStringFilter

STOP, LENGTH = "stop", "length"
"""Why a text ended: an end token or a stop string, or as many tokens as were asked for."""


@dataclass(frozen=True)
class GenerationRequest:
    """A text to write: ``prompt`` in tokens, at most ``most`` new ones; ``on`` goes past the model's own end."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stops: Sequence[str] = ()
    seed: int | None = None
    on: bool = False


@dataclass(frozen=True)
class Delta:
    """What a pass added: text that may be shown, tokens, and why the text ended, if it did."""

    text: str
    tokens: int
    finish: str | None = None


class TokenStream:
    """The listener's side of a job, on the event loop: iterate over it; ``cancel`` when nobody wants it any more."""

    def __init__(self) -> None:
        self._news: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        self.gone = False

    def push(self, news: Delta | Exception) -> None:
        self._news.put_nowait(news)

    def cancel(self) -> None:
        """The writer's thread sees it before its next pass."""
        self.gone = True

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while True:
            news = await self._news.get()
            if isinstance(news, Exception):
                raise news
            yield news
            if news.finish:
                return


@dataclass(eq=False)
class TextSequence:
    """The thread's side. ``past`` tokens have keys and values in ``blocks``; the last three are the scheduler's."""

    wish: GenerationRequest
    stream: TokenStream
    spelling: StopStringFilter
    random: np.random.Generator
    tokens: list[int]
    past: int = 0
    blocks: list[int] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    written: int = 0
    level: int = 0
    served: float = 0.0
    since: float = 0.0

    @property
    def longest(self) -> int:
        """Tokens that the whole text can come to."""
        return len(self.wish.prompt) + self.wish.max_tokens

    @property
    def ahead(self) -> int:
        """Tokens that the model has not seen."""
        return len(self.tokens) - self.past
