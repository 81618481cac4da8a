"""A request on its way through the batcher, and the ways in which it can fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastserve_core.errors import FastServeError, InvalidData
from fastserve_core.tasks import Encoded, Encoder, Row

log = logging.getLogger(__name__)

Answers = list[dict[str, Any]]


class QueueFull(Exception):
    """Too many inputs wait; ``retry_after`` is in whole seconds."""

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"too many inputs are waiting; try again in {retry_after} s")


class Unavailable(Exception):
    """The model is not loaded yet, or the server is shutting down."""


class EngineFailed(Exception):
    """The engine could not answer an input."""


@dataclass(eq=False, slots=True)
class PendingRequest:
    """Request in the batcher, whose lock guards ``not_scheduled``, ``queue_ids`` and ``cancelled``."""

    inputs: Sequence[Row]
    options: Mapping[str, Any]
    future: asyncio.Future[Answers]
    answers: Answers
    remaining: int
    not_scheduled: int
    queue_ids: list[int] = field(default_factory=list)
    cancelled: bool = False


@dataclass(eq=False, slots=True)
class PendingInput:
    """One input of a request on its way through the queue."""

    request: PendingRequest
    index: int
    encoded: Encoded
    arrival_s: float


class InferenceWorker(Protocol):
    """What a worker's thread makes for itself: a warm predictor."""

    @property
    def encode(self) -> Encoder: ...

    def answer(self, batch: Sequence[Encoded], options: Mapping[str, Any] | None = None) -> Answers: ...

    def close(self) -> None: ...


def public_error(error: Exception, instead: str) -> Exception:
    """The error that the caller may see: a fault of the input as it is, of ours as one sentence (and in the log)."""
    if isinstance(error, FastServeError):
        return error
    log.error(instead, exc_info=error)
    return EngineFailed(instead)


def check_positions(prompt: int, new: int, positions: int | None) -> None:
    """Raise ``InvalidData`` for a prompt that leaves the model no positions for so many new tokens."""
    if positions is not None and prompt + new > positions:
        raise InvalidData(
            f"a prompt of {prompt} tokens and {new} new ones are more than the model's {positions}: "
            "shorten the prompt or ask for fewer"
        )


def resolve_future(future: asyncio.Future[None], error: BaseException | None) -> None:
    """End a future unless it was given up, with an error or without."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
