"""The access log: a JSON object a line for each request."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

import msgspec
from starlette.types import Message, Scope, Send

from fastserve_core.errors import InvalidOption
from fastserve_server.options import STDOUT

REQUEST_ID = b"x-request-id"
SENT_BYTES = "fastserve.sent"
MAX_REQUEST_ID = 200
"""Characters of what a client says that are kept."""


class ReopeningFileHandler(WatchedFileHandler):
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


def access_log(path: str | None, option: str) -> AccessLog | None:
    """Where the lines go: a file, or with ``-`` the server's own output.

    Raises ``InvalidOption`` for a file that cannot be written.
    """
    if path is None:
        return None
    if path == STDOUT:
        return AccessLog(logging.StreamHandler(sys.stdout))
    try:
        return AccessLog(ReopeningFileHandler(Path(path).expanduser(), encoding="utf-8"))
    except OSError as error:
        raise InvalidOption(f"{option}: {path} cannot be written: {error.strerror}") from error


class AccessLog:
    """Writes a line when a request has been answered, or its client has left."""

    def __init__(self, handler: logging.Handler) -> None:
        self._handler = handler

    def counting(self, scope: Scope, send: Send) -> Send:
        """The same, which keeps how many bytes were sent."""
        scope[SENT_BYTES] = 0

        async def count(message: Message) -> None:
            scope[SENT_BYTES] += len(message.get("body", b""))
            await send(message)

        return count

    def write(self, scope: Scope, status: int, seconds: float) -> None:
        self._handler.emit(logging.makeLogRecord({"msg": describe(scope, status, seconds)}))


def describe(scope: Scope, status: int, seconds: float) -> str:
    """A request as JSON: no body, no query and no key is in it."""
    client, headers = scope.get("client"), dict(scope["headers"])
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": scope["path"][:MAX_REQUEST_ID],
        "status": status,
        "ms": round(1000 * seconds, 3),
        "bytes": scope[SENT_BYTES],
        "request_id": headers.get(REQUEST_ID, b"").decode("latin-1")[:MAX_REQUEST_ID] or None,
        "agent": headers.get(b"user-agent", b"").decode("latin-1")[:MAX_REQUEST_ID] or None,
    }
    return msgspec.json.encode(entry).decode()
