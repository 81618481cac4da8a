"""Common parts of endpoints: reading requests within limits, waiting for answers, and errors as JSON."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from fastserve_core.errors import UserError
from fastserve_server.decoding import (
    MAX_NAME_LENGTH,
    check_fields,
    decompress,
    parse_count,
    too_large,
    validation_message,
)
from fastserve_server.engine_loop import SHUTTING_DOWN
from fastserve_server.model_registry import ModelRegistry
from fastserve_server.requests import EngineError, QueueFullError, UnavailableError
from fastserve_server.schemas import ErrorResponse, InferError, Problem
from fastserve_server.service import Service

log = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

JSON = "application/json"
PROTOCOL = "/v2"
CLIENT_CLOSED_REQUEST = 499
DISCONNECT_POLL_S = 0.02
MODELS, DEADLINE = "fastserve.models", "fastserve.until"
"""Keys of a request's scope: the model registry, and the time of the event loop at which the request times out."""
ERROR_TYPES = {
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
    """A path with its handler and its OpenAPI description.

    Args:
        method: HTTP method.
        path: Path, with parameters in braces.
        handler: Answers the request.
        summary: One line for the description.
        request_type: Type of the JSON body, or ``None``.
        response_type: Type of the JSON response, or its content type.
        has_model_parameter: Whether the query may select a model by ``?model=NAME``.
        may_404: Whether the resource may be missing.
        name: Identifier in the OpenAPI description; by default the handler's name.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    request_type: Any = None
    response_type: Any = "text/html"
    has_model_parameter: bool = False
    may_404: bool = False
    name: str = ""


def models_of(request: Request) -> ModelRegistry:
    """Return the models of the server."""
    models: ModelRegistry = request.scope[MODELS]
    return models


def service_of(request: Request, name: str | None = None) -> Service:
    """Return the service of a model; see ``ModelRegistry.get``."""
    return models_of(request).get(name)


def reply(value: Any, status: int = 200) -> Response:
    """Return a value as a JSON response."""
    return Response(msgspec.json.encode(value), status, media_type=JSON)


# -- requests ----------------------------------------------------------------------------------------


async def read_body(request: Request) -> bytes:
    """Read the body of a request.

    Raises:
        ClientDisconnect: The client closed the connection.
        HTTPException: 413 as soon as the body is known to be too large; 400 if it cannot be decompressed.
        TimeoutError: The request has timed out.
        UnavailableError: The server is shutting down, and the body is not complete.
    """
    limit = models_of(request).options.max_body_bytes
    headers = dict(request.scope["headers"])
    encoding = headers.get(b"content-encoding", b"")
    body, fits = b"", (parse_count(headers.get(b"content-length", b"").decode("latin-1")) or 0) <= limit
    async with asyncio.timeout_at(request.scope[DEADLINE]):
        while fits and len(body) <= limit:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            body += chunk
            if not message.get("more_body", False) and len(body) <= limit:
                return decompress(body, encoding, limit)
            if models_of(request).draining:
                raise UnavailableError(SHUTTING_DOWN)
    raise too_large(limit)


def check_query(request: Request, endpoint: Endpoint) -> None:
    """Check the query of a request to an endpoint that has a body or selects a model by its query.

    Raises:
        HTTPException: 422 if it has a parameter that would be ignored.
    """
    if not (request.scope["query_string"] and (endpoint.request_type is not None or endpoint.has_model_parameter)):
        return
    known = ["model"] if endpoint.has_model_parameter else []
    for name in request.query_params:
        if name not in known:
            hint = "put it into the body" if endpoint.request_type is not None else "the only one is 'model'"
            raise HTTPException(422, f"the query parameter '{name[:MAX_NAME_LENGTH]}' is not supported: {hint}")


def decode(kind: type[T], body: bytes | memoryview) -> T:
    """Decode and validate a JSON body.

    Args:
        kind: Type of the body.
        body: The bytes.

    Raises:
        HTTPException: 400 if the body is not JSON, 422 if it does not have this type.
    """
    try:
        value: T = _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        raise HTTPException(422, validation_message(kind, str(error))) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    check_fields(kind, body)
    return value


_decoder: Callable[[Any], msgspec.json.Decoder[Any]] = functools.cache(msgspec.json.Decoder)


def check_num_inputs(service: Service, count: int) -> None:
    """Check the number of a request's inputs.

    Raises:
        HTTPException: 413, if there are more than ``max_inputs``.
    """
    limit = service.options.max_inputs
    if count > limit:
        raise HTTPException(413, f"the request has {count} inputs, and this server's limit is {limit}")


# -- waiting -----------------------------------------------------------------------------------------


async def await_or_disconnect(request: Request, future: asyncio.Future[T]) -> T:
    """Wait for a future; cancel it when the client disconnects or the request times out.

    Disconnects are only checked after ``DISCONNECT_POLL_S``, because that needs a task, which costs as much as a short
    answer.

    Args:
        request: The request.
        future: Its answer.

    Returns:
        The future's result.

    Raises:
        ClientDisconnect: The client closed the connection.
        TimeoutError: The request has timed out.
    """
    watch: asyncio.Task[Any] | None = None
    loop, deadline = asyncio.get_running_loop(), request.scope[DEADLINE]
    timer: asyncio.TimerHandle
    timed_out = False

    def start_watching() -> None:
        nonlocal watch, timer
        watch = asyncio.ensure_future(request.receive())
        watch.add_done_callback(lambda _: future.cancel())
        timer = loop.call_at(deadline, time_out)

    def time_out() -> None:
        nonlocal timed_out
        timed_out = future.cancel()

    timer = loop.call_at(min(deadline, loop.time() + DISCONNECT_POLL_S), start_watching)
    try:
        return await future
    except asyncio.CancelledError:
        if timed_out:
            raise TimeoutError from None
        if watch is not None and watch.done() and not watch.cancelled():
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        if watch is not None:
            watch.cancel()


# -- errors ------------------------------------------------------------------------------------------


def problem(request: Request, status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as JSON: ``{"error": {"type", "message"}}``, or in the protocol's format below ``/v2``."""
    kind = ERROR_TYPES.get(status, "error")
    is_protocol = request.url.path == PROTOCOL or request.url.path.startswith(PROTOCOL + "/")
    body = InferError(message, kind) if is_protocol else ErrorResponse(Problem(kind, message))
    return Response(msgspec.json.encode(body), status, dict(headers or {}), JSON)


def timeout_message(seconds: float) -> str:
    """Return the message of a request that timed out."""
    return f"the request took longer than the server's limit of {seconds:g} s"


def error_response(request: Request, error: Exception) -> Response:
    """Return the response for an error; unexpected errors are logged, and the client gets no details."""
    if isinstance(error, HTTPException):
        return problem(request, error.status_code, error.detail, error.headers)
    if isinstance(error, UserError):
        return problem(request, 422, str(error))
    if isinstance(error, QueueFullError):
        return problem(request, 429, str(error), {"Retry-After": str(error.retry_after)})
    if isinstance(error, UnavailableError):
        return problem(request, 503, str(error), {"Retry-After": "1"})
    if isinstance(error, TimeoutError):
        return problem(request, 504, timeout_message(models_of(request).options.request_timeout_s))
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    if isinstance(error, EngineError):
        return problem(request, 500, str(error))
    log.error("a request could not be answered", exc_info=error)
    return problem(request, 500, "the server failed; see its log")
