"""One process: the models, the replies, and a page to talk to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from fastserve_customer_service.replies import Pending, Rules

MAX_CHARACTERS = 2000
PAGE = Path(__file__).with_name("page.html")
Predict = Callable[[str], Mapping[str, Any]]


def build_application(understand: Predict, rules: Rules, write: Predict | None = None) -> Starlette:
    """Return the application.

    Args:
        understand: Returns the intent and the slots of a message.
        rules: The replies.
        write: Continues a text, for messages out of scope; without it a person takes over.
    """
    worker = ThreadPoolExecutor(max_workers=1)  # a model answers in the thread that loaded it

    def answer(message: str, pending: Pending | None) -> dict[str, Any]:
        found = understand(message)
        turn = rules.react(message, found, pending)
        if turn.action == "hand_over" and write is not None:
            free = write(message)["text"].strip()
            return {**asdict(turn), "action": "free_reply", "text": free, "answer": found}
        return {**asdict(turn), "answer": found}

    async def chat(request: Request) -> Response:
        try:
            message, pending = read_message(json.loads(await request.body()))
        except ValueError as error:
            return JSONResponse({"error": {"type": "invalid_message", "message": str(error)}}, 422)
        return JSONResponse(await asyncio.get_running_loop().run_in_executor(worker, answer, message, pending))

    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    return Starlette(routes=[Route("/", page), Route("/chat", chat, methods=["POST"])])


def read_message(body: Any) -> tuple[str, Pending | None]:
    """Return the message of a request, and the intent that waits for it.

    Raises:
        ValueError: The request has another form.
    """
    message = body.get("message") if isinstance(body, dict) else None
    if not isinstance(message, str) or not message.strip() or len(message) > MAX_CHARACTERS:
        raise ValueError(f"'message' must be a text of 1 to {MAX_CHARACTERS} characters")
    pending = body.get("pending")
    if pending is None:
        return message, None
    try:
        return message, Pending(str(pending["intent"]), dict(pending["slots"]), str(pending["slot"]))
    except (TypeError, KeyError) as error:
        raise ValueError("'pending' must be that of the last turn") from error
