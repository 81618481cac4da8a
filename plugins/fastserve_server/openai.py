"""OpenAI's completions and chat completions, complete or as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fastserve_core.errors import DataError
from fastserve_server.generation.generator import GenerationEngine
from fastserve_server.generation.jobs import Delta, TokenStream, collect
from fastserve_server.openai_responses import Chats, Completions, ResponseBuilder
from fastserve_server.openai_schemas import Chat, ChatRequest, Completion, CompletionRequest, Parameters, Usage
from fastserve_server.requests import EngineError, UnavailableError
from fastserve_server.schemas import ErrorResponse, Problem
from fastserve_server.service import Service
from fastserve_server.web import (
    ERROR_TYPES,
    Endpoint,
    await_or_disconnect,
    check_num_inputs,
    decode,
    read_body,
    reply,
    service_of,
    timeout_message,
)

EVENT_STREAM = "text/event-stream"
DONE = b"data: [DONE]\n\n"
DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for completions."""


async def completions(request: Request) -> Response:
    """Continue prompts."""
    body = decode(CompletionRequest, await read_body(request))
    generator, service = _generator(request, body)
    prompts = await asyncio.to_thread(_prompts, generator, body.prompt)
    max_tokens = _check_max_tokens(service, body.max_tokens or DEFAULT_MAX_TOKENS)
    return await _answer(request, service, body, prompts, max_tokens, Completions(service.name))


async def chat(request: Request) -> Response:
    """Answer a conversation."""
    body = decode(ChatRequest, await read_body(request))
    generator, service = _generator(request, body)
    messages = [{"role": message.role, "content": _text(message.content)} for message in body.messages]
    codec = generator.codec
    # the chat template adds the special tokens
    prompts = await asyncio.to_thread(lambda: codec.tokens([codec.chat(messages)], special=False))
    requested = body.max_completion_tokens or body.max_tokens
    default = service.max_new_tokens_for(len(prompts[0]))
    max_tokens = _check_max_tokens(service, requested) if requested else default
    return await _answer(request, service, body, prompts, max_tokens, Chats(service.name))


def _generator(request: Request, body: Parameters) -> tuple[GenerationEngine, Service]:
    service = service_of(request, body.model)
    return service.generator(), service


def _prompts(generator: GenerationEngine, prompt: str | list[str | int | list[int]]) -> list[list[int]]:
    """Token ids of each prompt: of one or several texts, or as they are for one or several lists of token ids."""
    items = [prompt] if isinstance(prompt, str) else prompt
    texts = [item for item in items if isinstance(item, str)]
    tokens = [item for item in items if isinstance(item, int)]
    lists = [item for item in items if isinstance(item, list)]
    if len(items) not in (len(texts), len(tokens), len(lists)):
        raise DataError("a prompt must be texts, or tokens, or lists of tokens, not a mixture of them")
    if texts:
        return generator.codec.tokens(texts)
    return [tokens] if tokens else lists


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _check_max_tokens(service: Service, max_tokens: int) -> int:
    limit = service.options.max_new_tokens
    if max_tokens > limit:
        raise DataError(f"max_tokens must be at most {limit} on this server, not {max_tokens}")
    return max_tokens


async def _answer(
    request: Request,
    service: Service,
    body: Parameters,
    prompts: Sequence[list[int]],
    max_tokens: int,
    builder: ResponseBuilder,
) -> Response:
    num_choices = body.n or 1
    check_num_inputs(service, len(prompts) * num_choices)
    requests = [body.to_request(prompt, max_tokens, index) for prompt in prompts for index in range(num_choices)]
    streams = service.generate(requests)
    num_read = sum(map(len, prompts))
    if not body.stream:
        texts = await await_or_disconnect(request, asyncio.ensure_future(collect(streams)))
        return reply(builder.response(texts, _usage(num_read, sum(text["tokens"] for text in texts))))
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    events = _events(streams, builder, num_read if include_usage else None, service.options.request_timeout_s)
    return StreamingResponse(events, media_type=EVENT_STREAM, headers={"Cache-Control": "no-cache"})


async def _events(
    streams: Sequence[TokenStream], builder: ResponseBuilder, num_read: int | None, timeout_s: float
) -> AsyncIterator[bytes]:
    """Events of all choices; the last one is the end, or the error that prevents it."""
    num_generated = 0
    try:
        for body in builder.begin(len(streams)):
            yield _event(body)
        async with asyncio.timeout(timeout_s), aclosing(_merge_streams(streams)) as merged:
            async for choice, delta in merged:
                num_generated += delta.tokens
                if delta.text or delta.finish:
                    yield _event(builder.chunk(choice, delta))
        if num_read is not None:
            yield _event(builder.usage(_usage(num_read, num_generated)))
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


async def _merge_streams(streams: Sequence[TokenStream]) -> AsyncGenerator[tuple[int, Delta]]:
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


def _usage(num_read: int, num_generated: int) -> Usage:
    return Usage(num_read, num_generated, num_read + num_generated)


ENDPOINTS = (
    Endpoint("POST", "/v1/completions", completions, "Continue a prompt", CompletionRequest, Completion),
    Endpoint("POST", "/v1/chat/completions", chat, "Answer a conversation", ChatRequest, Chat),
)
