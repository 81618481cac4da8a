"""The application: a page to ask, a route for programs, and OpenAI's route for chats."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from fastserve_assistant.answers import Assistant, Reply

MAX_CHARACTERS = 2000
MODEL = "assistant"
PAGE = Path(__file__).with_name("page.html")


def build_application(assistant: Assistant) -> Starlette:
    """Return the application; the models run in one thread, the one that loads them."""
    worker = ThreadPoolExecutor(max_workers=1)

    async def reply_to(question: str) -> Reply:
        return await asyncio.get_running_loop().run_in_executor(worker, assistant.reply, question)

    async def ask(request: Request) -> Response:
        try:
            question = check_question(read_object(await request.body()).get("question"))
        except ValueError as error:
            return refuse(error)
        return JSONResponse(asdict(await reply_to(question)))

    async def chat(request: Request) -> Response:
        try:
            body = read_object(await request.body())
            question = last_question(body.get("messages"))
        except ValueError as error:
            return refuse(error)
        reply = await reply_to(question)
        if body.get("stream"):
            return StreamingResponse(stream(reply), media_type="text/event-stream")
        message = {"role": "assistant", "content": reply.as_text()}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({**head("chat.completion"), "choices": [choice], "sources": list(reply.sources)})

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "fastserve"}]})

    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    return Starlette(
        routes=[
            Route("/", page),
            Route("/ask", ask, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ]
    )


def head(kind: str) -> dict[str, Any]:
    """Return the fields that all responses of OpenAI's route have."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": MODEL}


def stream(reply: Reply) -> Iterator[str]:
    """Yield server-sent events: the answer, its end with the sources, and the end of the stream."""
    start = head("chat.completion.chunk")
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": reply.as_text()}, None),
        ({}, "stop"),
    ]
    for delta, reason in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        sources = {"sources": list(reply.sources)} if reason else {}
        yield f"data: {json.dumps({**start, 'choices': [choice], **sources}, ensure_ascii=False)}\n\n"
    yield "data: [DONE]\n\n"


def refuse(error: ValueError) -> Response:
    """Return the response to a request that cannot be answered."""
    return JSONResponse({"error": {"type": "invalid_request", "message": str(error)}}, 422)


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a request's body; raises ``ValueError`` if it is not one."""
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError("the body must be a JSON object")
    return value


def check_question(question: Any) -> str:
    """Return a question; raises ``ValueError`` if it is not a text, or too long."""
    if not isinstance(question, str) or not question.strip() or len(question) > MAX_CHARACTERS:
        raise ValueError(f"the question must be a text of 1 to {MAX_CHARACTERS} characters")
    return question


def last_question(messages: Any) -> str:
    """Return the last message of the user; raises ``ValueError`` without one. Each question is answered by itself."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("'messages' must be a list of objects with 'role' and 'content'")
    questions = [message.get("content") for message in messages if message.get("role") == "user"]
    if not questions:
        raise ValueError("'messages' has no message of the user")
    return check_question(questions[-1])
