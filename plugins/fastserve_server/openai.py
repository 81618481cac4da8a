"""OpenAI's completions and chats: the same texts at once or as server-sent events."""

from __future__ import annotations

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fastserve_core.errors import InvalidData
from fastserve_server.generation.generator import GenerationEngine, collect
from fastserve_server.generation.jobs import Delta, TokenStream
from fastserve_server.openai_schemas import (
    AssistantMessage,
    Body,
    Chat,
    ChatChoice,
    ChatChunk,
    ChatRequest,
    Completion,
    CompletionRequest,
    DeltaChoice,
    Parameters,
    TextChoice,
    Usage,
)
from fastserve_server.requests import Answers, EngineFailed, Unavailable
from fastserve_server.schemas import ErrorResponse, Problem
from fastserve_server.service import Service
from fastserve_server.web import TYPES, Endpoint, await_or_disconnect, decode, read_body, reply, service_of

EVENTS = "text/event-stream"
DONE = b"data: [DONE]\n\n"


class ResponseBuilder(ABC):
    """How a kind of answer looks: as a whole, and in parts."""

    prefix: ClassVar[str]

    def __init__(self, model: str) -> None:
        self.about: dict[str, Any] = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    @abstractmethod
    def response(self, texts: Answers, usage: Usage) -> Body: ...

    def begin(self, count: int) -> list[Body]:
        return []

    @abstractmethod
    def part(self, choice: int, delta: Delta) -> Body: ...

    @abstractmethod
    def usage(self, usage: Usage) -> Body: ...


class Completions(ResponseBuilder):
    prefix = "cmpl"

    def response(self, texts: Answers, usage: Usage) -> Body:
        choices = [TextChoice(place, one["text"], one["finish"]) for place, one in enumerate(texts)]
        return Completion(**self.about, choices=choices, usage=usage)

    def part(self, choice: int, delta: Delta) -> Body:
        return Completion(**self.about, choices=[TextChoice(choice, delta.text, delta.finish)])

    def usage(self, usage: Usage) -> Body:
        return Completion(**self.about, choices=[], usage=usage)


class Chats(ResponseBuilder):
    prefix = "chatcmpl"

    def response(self, texts: Answers, usage: Usage) -> Body:
        choices = [ChatChoice(place, AssistantMessage(one["text"]), one["finish"]) for place, one in enumerate(texts)]
        return Chat(**self.about, choices=choices, usage=usage)

    def begin(self, count: int) -> list[Body]:
        first = {"role": "assistant", "content": ""}
        return [ChatChunk(**self.about, choices=[DeltaChoice(one, first)]) for one in range(count)]

    def part(self, choice: int, delta: Delta) -> Body:
        said = {"content": delta.text} if delta.text else {}
        return ChatChunk(**self.about, choices=[DeltaChoice(choice, said, delta.finish)])

    def usage(self, usage: Usage) -> Body:
        return ChatChunk(**self.about, choices=[], usage=usage)


async def completions(request: Request) -> Response:
    asked = decode(CompletionRequest, await read_body(request))
    generator, service = _generator(request, asked)
    prompts = await asyncio.to_thread(_prompts, generator, asked.prompt)
    most = _resolve_max_tokens(service, asked.max_tokens or 16)
    return await _answer(request, service, asked, prompts, most, Completions(service.name))


async def chat(request: Request) -> Response:
    asked = decode(ChatRequest, await read_body(request))
    generator, service = _generator(request, asked)
    said = [{"role": one.role, "content": _text(one.content)} for one in asked.messages]
    # the template has the special tokens already
    prompt = await asyncio.to_thread(lambda: generator.codec.tokens([generator.codec.chat(said)], special=False))
    wanted = asked.max_completion_tokens or asked.max_tokens
    most = _resolve_max_tokens(service, wanted) if wanted else service.max_new_tokens_for(len(prompt[0]))
    return await _answer(request, service, asked, prompt, most, Chats(service.name))


def _generator(request: Request, asked: Parameters) -> tuple[GenerationEngine, Service]:
    service = service_of(request, asked.model)
    return service.generator(), service


def _prompts(generator: GenerationEngine, prompt: str | list[str | int | list[int]]) -> list[list[int]]:
    """The tokens of each text: one or several texts, or the tokens of one or several."""
    several = [prompt] if isinstance(prompt, str) else prompt
    texts = [one for one in several if isinstance(one, str)]
    tokens = [one for one in several if isinstance(one, int)]
    lists = [one for one in several if isinstance(one, list)]
    if len(several) not in (len(texts), len(tokens), len(lists)):
        raise InvalidData("a prompt is texts, or tokens, or lists of tokens: not some of each")
    if texts:
        return generator.codec.tokens(texts)
    return [tokens] if tokens else lists


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _resolve_max_tokens(service: Service, wanted: int) -> int:
    limit = service.options.max_new_tokens
    if wanted > limit:
        raise InvalidData(f"max_tokens must be at most {limit} on this server, not {wanted}")
    return wanted


async def _answer(
    request: Request,
    service: Service,
    asked: Parameters,
    prompts: Sequence[list[int]],
    most: int,
    shape: ResponseBuilder,
) -> Response:
    choices = len(prompts) * (asked.n or 1)
    if choices > service.options.max_inputs:
        raise HTTPException(413, f"{choices} texts are more than the {service.options.max_inputs} of one request")
    wishes = [asked.to_request(prompt, most, place) for prompt in prompts for place in range(asked.n or 1)]
    streams = service.generate(wishes)
    read = sum(map(len, prompts))
    if not asked.stream:
        texts = await await_or_disconnect(request, asyncio.ensure_future(collect(streams)))
        return reply(shape.response(texts, _usage(read, sum(one["tokens"] for one in texts))))
    counted = asked.stream_options is not None and asked.stream_options.include_usage
    events = _events(streams, shape, read if counted else None, service.options.request_timeout_s)
    return StreamingResponse(events, media_type=EVENTS, headers={"Cache-Control": "no-cache"})


async def _events(
    streams: Sequence[TokenStream], shape: ResponseBuilder, read: int | None, request_timeout_s: float
) -> AsyncIterator[bytes]:
    """The texts' parts as they come, of all choices; the end, or why there is none."""
    written = 0
    try:
        for one in shape.begin(len(streams)):
            yield _event(one)
        async with asyncio.timeout(request_timeout_s), aclosing(_merge_streams(streams)) as merged:
            async for choice, delta in merged:
                written += delta.tokens
                if delta.text or delta.finish:
                    yield _event(shape.part(choice, delta))
        if read is not None:
            yield _event(shape.usage(_usage(read, written)))
        yield DONE
    except TimeoutError:
        yield _failed(504, f"the answer took longer than the {request_timeout_s:g} s that a request may take")
    except Unavailable as error:
        yield _failed(503, str(error))
    except EngineFailed as error:
        yield _failed(500, str(error))
    finally:
        for stream in streams:
            stream.cancel()


async def _merge_streams(streams: Sequence[TokenStream]) -> AsyncGenerator[tuple[int, Delta]]:
    """What comes of any of them, with its place."""
    waiting = {place: aiter(one) for place, one in enumerate(streams)}
    asked = {asyncio.ensure_future(anext(one)): place for place, one in waiting.items()}
    try:
        while asked:
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                place, delta = asked.pop(one), one.result()
                yield place, delta
                if not delta.finish:
                    asked[asyncio.ensure_future(anext(waiting[place]))] = place
    finally:
        for one in asked:
            one.cancel()


def _event(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _failed(status: int, message: str) -> bytes:
    """What a client sees when the answer has begun and cannot be ended."""
    return _event(ErrorResponse(Problem(TYPES[status], message)))


def _usage(read: int, written: int) -> Usage:
    return Usage(read, written, read + written)


ENDPOINTS = (
    Endpoint("POST", "/v1/completions", completions, "Go on from a prompt", CompletionRequest, Completion),
    Endpoint("POST", "/v1/chat/completions", chat, "Answer a conversation", ChatRequest, Chat),
)
