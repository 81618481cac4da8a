"""Routes that generate texts, complete or as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fastserve_core.errors import DataError
from fastserve_core.tasks import (
    GenerationRequest,
    GenerationRoute,
    IncrementalDetokenizer,
    Row,
    TextCodec,
    TextDelta,
    TextResponse,
    TokenConstraint,
)
from fastserve_server.generation.generator import GenerationEngine
from fastserve_server.generation.jobs import TokenStream, collect
from fastserve_server.requests import EngineError, UnavailableError
from fastserve_server.schemas import ErrorResponse, Problem
from fastserve_server.service import Service
from fastserve_server.web import ERROR_TYPES, await_or_disconnect, check_num_inputs, reply, timeout_message

EVENT_STREAM = "text/event-stream"
DONE = b"data: [DONE]\n\n"


class PromptCodec(TextCodec):
    """The codec of a generation engine, which refuses texts that are too many or too long before it encodes them.

    Args:
        engine: The engine.
        check_count: Raises for a number of texts that is too large.
    """

    def __init__(self, engine: GenerationEngine, check_count: Callable[[int], None]) -> None:
        self._engine, self._check_count = engine, check_count
        self.vocabulary = engine.codec.vocabulary

    def tokens(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        """Encode texts; see ``GenerationEngine.encode``."""
        self._check_count(len(texts))
        return self._engine.encode(texts, special)

    def speller(self) -> IncrementalDetokenizer:
        """Return the detokenizer of one text."""
        return self._engine.codec.speller()

    def token_text(self, token: int) -> str:
        """Return the characters of one token."""
        return self._engine.codec.token_text(token)

    def prompt(self, row: Row) -> tuple[str, bool]:
        """Return the prompt of a row; see ``TextCodec.prompt``."""
        return self._engine.codec.prompt(row)

    def constrain(self, schema: Mapping[str, Any]) -> TokenConstraint:
        """Return a constraint; see ``TextCodec.constrain``."""
        return self._engine.codec.constrain(schema)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Render the model's chat template."""
        return self._engine.codec.chat(messages)


async def generate(request: Request, service: Service, route: GenerationRoute, body: Any) -> Response:
    """Answer a request with generated texts.

    Args:
        request: The request.
        service: The service of the model.
        route: The route of the model's task.
        body: The validated body.
    """
    num_texts = route.num_texts(body)
    codec = PromptCodec(service.generator(), lambda count: check_num_inputs(service, count * num_texts))
    prompts = await asyncio.to_thread(route.prompts, body, codec)
    check_num_inputs(service, len(prompts) * num_texts)
    requests = [
        route.generation_request(body, prompt, index, service.max_new_tokens_for(len(prompt)))
        for prompt in prompts
        for index in range(num_texts)
    ]
    _check_max_tokens(service, requests)
    await asyncio.to_thread(_compile_schemas, codec, requests)
    streams, response = service.generate(requests), route.response(body, service.name)
    prompt_tokens = sum(map(len, prompts))
    if not route.wants_stream(body):
        texts = await await_or_disconnect(request, asyncio.ensure_future(collect(streams)))
        return reply(response.complete(texts, prompt_tokens))
    events = _events(streams, response, prompt_tokens, service.options.request_timeout_s)
    return StreamingResponse(events, media_type=EVENT_STREAM, headers={"Cache-Control": "no-cache"})


def _compile_schemas(codec: TextCodec, requests: Sequence[GenerationRequest]) -> None:
    """Compile the JSON Schemas of requests in this thread, so that the event loop finds them compiled."""
    for request in requests:
        if request.json_schema is not None:
            codec.constrain(request.json_schema)


def _check_max_tokens(service: Service, requests: Sequence[GenerationRequest]) -> None:
    limit = service.options.max_new_tokens
    for request in requests:
        if request.max_tokens > limit:
            raise DataError(f"max_tokens must be at most {limit} on this server, not {request.max_tokens}")


async def _events(
    streams: Sequence[TokenStream], response: TextResponse, prompt_tokens: int, timeout_s: float
) -> AsyncIterator[bytes]:
    """Events of all texts; the last one is the end, or the error that prevents it."""
    num_generated = 0
    try:
        for body in response.begin(len(streams)):
            yield _event(body)
        async with asyncio.timeout(timeout_s), aclosing(_merge_streams(streams)) as merged:
            async for index, delta in merged:
                num_generated += delta.tokens
                if delta.text or delta.finish or delta.logprobs:
                    yield _event(response.chunk(index, delta))
        for body in response.end(prompt_tokens, num_generated):
            yield _event(body)
        yield DONE
    except TimeoutError:
        yield _error_event(504, timeout_message(timeout_s))
    except UnavailableError as error:
        yield _error_event(503, str(error))
    except EngineError as error:
        yield _error_event(500, str(error))
    finally:
        for stream in streams:
            stream.cancel()


async def _merge_streams(streams: Sequence[TokenStream]) -> AsyncGenerator[tuple[int, TextDelta]]:
    """Deltas of all streams as they arrive, with the index of their stream."""
    iterators = [aiter(stream) for stream in streams]
    pending = {asyncio.ensure_future(anext(iterator)): index for index, iterator in enumerate(iterators)}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                index, delta = pending.pop(future), future.result()
                yield index, delta
                if not delta.finish:
                    pending[asyncio.ensure_future(anext(iterators[index]))] = index
    finally:
        for future in pending:
            future.cancel()


def _event(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _error_event(status: int, message: str) -> bytes:
    """Event of an error after the response has begun, when its status can no longer change."""
    return _event(ErrorResponse(Problem(ERROR_TYPES[status], message)))
