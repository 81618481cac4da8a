"""Requests in the batcher, and the errors that they can fail with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastserve_core.errors import DataError, FastServeError
from fastserve_core.tasks import Encoded, Encoder, Row

log = logging.getLogger(__name__)

Answers = list[dict[str, Any]]


class QueueFullError(Exception):
    """Too many inputs are waiting.

    Args:
        retry_after: Whole seconds after which the client should try again.
    """

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"too many inputs are waiting; try again in {retry_after} s")


class UnavailableError(Exception):
    """The model is not loaded yet or has failed, or the server is shutting down."""


class EngineError(Exception):
    """The engine failed to answer an input."""


@dataclass(eq=False, slots=True)
class PendingRequest:
    """Request in the batcher, whose lock guards ``not_scheduled``, ``queue_ids`` and ``cancelled``.

    Args:
        inputs: The rows.
        options: Task options of the request.
        future: Receives the answers.
        answers: The answers so far, one per row.
        remaining: Number of rows without an answer.
        not_scheduled: Number of rows that no pass has started.
        queue_ids: Keys of the rows in the queue.
        cancelled: Whether the request was withdrawn or has failed.
    """

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
    """Encoded row of a request in the queue; ``arrival_s`` is on the monotonic clock."""

    request: PendingRequest
    index: int
    encoded: Encoded
    arrival_s: float


class InferenceWorker(Protocol):
    """Warm predictor that belongs to one thread."""

    @property
    def encode(self) -> Encoder:
        """Encodes rows."""

    def answer(self, batch: Sequence[Encoded], options: Mapping[str, Any] | None = None) -> Answers:
        """Answer encoded rows in one engine pass."""

    def close(self) -> None:
        """Release the engine."""


def public_error(error: BaseException, message: str) -> Exception:
    """Return the error that a client may see.

    Args:
        error: The error. If it is not a ``FastServeError``, it is logged.
        message: Message of the ``EngineError`` that replaces such an error.
    """
    if isinstance(error, FastServeError):
        return error
    log.error(message, exc_info=error)
    return EngineError(message)


def check_positions(prompt: int, new: int, positions: int | None) -> None:
    """Check that a prompt and its new tokens fit into the model.

    Args:
        prompt: Number of tokens of the prompt.
        new: Maximum number of new tokens.
        positions: Maximum number of tokens of a sequence; ``None`` if there is no limit.

    Raises:
        DataError: They do not fit.
    """
    if positions is not None and prompt + new > positions:
        raise DataError(
            f"a prompt of {prompt} tokens and {new} new ones are more than the model's {positions}: "
            "shorten the prompt or request fewer new tokens"
        )


def resolve_future(future: asyncio.Future[None], error: BaseException | None) -> None:
    """Complete a future, with an error if there is one, unless it is done."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
