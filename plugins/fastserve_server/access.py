"""The access log: a JSON object a line for each request."""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastserve_core.errors import BadOption
from fastserve_server.options import STANDARD

REQUEST_ID = b"x-request-id"
LONGEST = 200
"""Characters of what a client says that are kept."""


class Lines(WatchedFileHandler):
    """Lines at the end of a file, which may be moved away meanwhile. A disk that is full is said once, and again
    when lines that could be written have come between."""

    failed = False

    def emit(self, record: logging.LogRecord) -> None:
        self._fault: Exception | None = None
        super().emit(record)
        if self._fault is not None and not self.failed:
            print(f"the access log {self.baseFilename} cannot be written: {self._fault}", file=sys.stderr, flush=True)
        self.failed = self._fault is not None

    def handleError(self, record: logging.LogRecord) -> None:
        fault = sys.exception()
        self._fault = fault if isinstance(fault, Exception) else None


def access_log(path: str | None, option: str) -> logging.Handler | None:
    """Where the lines go: a file, or with ``-`` the server's own output.

    Raises ``BadOption`` for a file that cannot be written.
    """
    if path is None:
        return None
    if path == STANDARD:
        return logging.StreamHandler(sys.stdout)
    try:
        return Lines(Path(path).expanduser(), encoding="utf-8")
    except OSError as error:
        raise BadOption(f"{option}: {path} cannot be written: {error.strerror}") from error


class Logged:
    """Middleware that writes a line when a request has been answered, or its client has left."""

    def __init__(self, app: ASGIApp, handler: logging.Handler | None) -> None:
        self._app, self._handler = app, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._handler is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, sent = 500, 0  # what an error becomes that nothing in here answers
        begin = time.perf_counter()

        async def note(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            line = describe(scope, status, sent, time.perf_counter() - begin)
            self._handler.emit(logging.makeLogRecord({"msg": line}))


def describe(scope: Scope, status: int, sent: int, seconds: float) -> str:
    """A request as JSON: no body, no query and no key is in it."""
    client, headers = scope.get("client"), dict(scope["headers"])
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": scope["path"][:LONGEST],
        "status": status,
        "ms": round(1000 * seconds, 3),
        "bytes": sent,
        "request_id": headers.get(REQUEST_ID, b"").decode("latin-1")[:LONGEST] or None,
        "agent": headers.get(b"user-agent", b"").decode("latin-1")[:LONGEST] or None,
    }
    return msgspec.json.encode(entry).decode()
