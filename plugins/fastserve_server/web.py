"""What every endpoint uses: reading a request within its limits, and saying what went wrong as JSON."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from fastserve_core.errors import UserError
from fastserve_server.model_registry import ModelRegistry
from fastserve_server.openai_schemas import ChatRequest, CompletionRequest
from fastserve_server.requests import EngineFailed, QueueFull, Unavailable
from fastserve_server.schemas import ErrorResponse, InferError, InferRequest, PredictRequest, Problem
from fastserve_server.service import Service

log = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

JSON = "application/json"
PROTOCOL = "/v2"
CLIENT_CLOSED_REQUEST = 499
DISCONNECT_POLL_S = 0.02
MODELS, DEADLINE = "fastserve.models", "fastserve.until"
"""In a request's scope: the models that it may ask, and the time on the loop's clock when it has to be answered."""
TYPES = {
    400: "malformed",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    422: "unusable",
    429: "queue_full",
    500: "internal",
    503: "unavailable",
    504: "deadline_exceeded",
}


@dataclass(frozen=True)
class Endpoint:
    """A path, what answers it, and what its description says."""

    method: str
    path: str
    handler: Handler
    summary: str
    request_type: type | None = None
    response_type: type | str = "text/html"
    has_model_parameter: bool = False
    """Whether the query may say which model it is about, ``?model=NAME``."""
    may_404: bool = False
    """Whether there may be nothing to tell of, which is a 404."""


def models_of(request: Request) -> ModelRegistry:
    models: ModelRegistry = request.scope[MODELS]
    return models


def service_of(request: Request, name: str | None = None) -> Service:
    """The service of a model, of no name the first one's; 404 for one that there is not."""
    return models_of(request).get(name)


def reply(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type=JSON)


# -- reading -----------------------------------------------------------------------------------------


async def read_body(request: Request) -> bytes:
    """The body, or 413 as soon as it is known to be too large."""
    most = models_of(request).options.max_body_bytes
    headers = dict(request.scope["headers"])
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise HTTPException(400, "compressed request bodies are not read: send it as it is")
    declared = headers.get(b"content-length", b"")
    body, fits = b"", not declared.isdigit() or int(declared) <= most
    async with asyncio.timeout_at(request.scope[DEADLINE]):
        while fits and len(body) <= most:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part: bytes = message.get("body", b"")
            body += part
            if not message.get("more_body", False) and len(body) <= most:
                return body
    raise HTTPException(413, f"the body has more than {most} bytes, which is this server's limit")


def decode(kind: type[T], body: bytes | memoryview) -> T:
    """The body as that type: 400 when it is no JSON, 422 when it is but of another shape."""
    try:
        value: T = _DECODERS[kind].decode(body)
        return value
    except msgspec.ValidationError as error:
        raise HTTPException(422, str(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error


_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (ChatRequest, CompletionRequest, InferRequest, PredictRequest)
}


# -- waiting -----------------------------------------------------------------------------------------


async def await_or_disconnect(request: Request, future: asyncio.Future[T]) -> T:
    """The future's result; when the client leaves first, or the time is over, the future is cancelled.

    Neither is looked at before ``DISCONNECT_POLL_S``: it takes a task, which costs as much as a short answer.
    """
    watch: asyncio.Task[Any] | None = None
    loop, until = asyncio.get_running_loop(), request.scope[DEADLINE]
    timer: asyncio.TimerHandle
    late = False

    def begin() -> None:
        nonlocal watch, timer
        watch = asyncio.ensure_future(request.receive())
        watch.add_done_callback(lambda _: future.cancel())
        timer = loop.call_at(until, end)

    def end() -> None:
        nonlocal late
        late = future.cancel()

    timer = loop.call_at(min(until, loop.time() + DISCONNECT_POLL_S), begin)
    try:
        return await future
    except asyncio.CancelledError:
        if late:
            raise TimeoutError from None
        if watch is not None and watch.done() and not watch.cancelled():
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        if watch is not None:
            watch.cancel()


# -- refusing ----------------------------------------------------------------------------------------


def problem(request: Request, status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as JSON: ``{"error": {"type", "message"}}``, and as its own protocol wants it below ``/v2``."""
    kind = TYPES.get(status, "error")
    protocol = request.url.path == PROTOCOL or request.url.path.startswith(PROTOCOL + "/")
    body = InferError(message, kind) if protocol else ErrorResponse(Problem(kind, message))
    return Response(msgspec.json.encode(body), status, dict(headers or {}), JSON)


def error_response(request: Request, error: Exception) -> Response:
    """What the client is told of an error; one of ours is in the log."""
    if isinstance(error, HTTPException):
        return problem(request, error.status_code, error.detail, error.headers)
    if isinstance(error, UserError):
        return problem(request, 422, str(error))
    if isinstance(error, QueueFull):
        return problem(request, 429, str(error), {"Retry-After": str(error.retry_after)})
    if isinstance(error, Unavailable):
        return problem(request, 503, str(error), {"Retry-After": "1"})
    if isinstance(error, TimeoutError):
        seconds = models_of(request).options.request_timeout_s
        return problem(request, 504, f"the answer took longer than the {seconds:g} s that a request may take")
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    if isinstance(error, EngineFailed):
        return problem(request, 500, str(error))
    log.error("a request could not be answered", exc_info=error)
    return problem(request, 500, "the server failed; see its log")
