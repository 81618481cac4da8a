"""Access log: one JSON object per line and request."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler

import msgspec
from starlette.types import Message, Scope, Send

from fastserve_core.artifacts import expand_user
from fastserve_core.errors import OptionError
from fastserve_server.options import STDOUT

REQUEST_ID = b"x-request-id"
NUM_BYTES = "fastserve.sent"
MAX_FIELD_LENGTH = 200
"""Maximum number of characters of a client's value in the log."""


class ReopeningFileHandler(WatchedFileHandler):
    """Appends lines to a file, which another program may move away.

    If writing fails, for example on a full disk, one message is printed to stderr. After a successful line, the next
    failure is printed again.
    """

    has_failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or report that it cannot be written."""
        try:
            self.reopenIfNeeded()
            if self.stream is None:
                self.stream = self._open()
            self.stream.write(self.format(record) + self.terminator)
            self.flush()
        except OSError as error:
            if not self.has_failed:
                print(f"cannot write the access log {self.baseFilename}: {error}", file=sys.stderr, flush=True)
            self.has_failed = True
        else:
            self.has_failed = False


def access_log(path: str | None, option: str) -> AccessLog | None:
    """Open the access log.

    Args:
        path: File to append to; ``"-"`` for the server's own output, ``None`` for no log.
        option: Name of the option, for the error.

    Raises:
        OptionError: The file cannot be written.
    """
    if path is None:
        return None
    if path == STDOUT:
        return AccessLog(logging.StreamHandler(sys.stdout))
    try:
        return AccessLog(ReopeningFileHandler(expand_user(path), encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{option}: cannot write {path}: {error.strerror}") from error


class AccessLog:
    """Writes a line when a request is answered, or its client has disconnected."""

    def __init__(self, handler: logging.Handler) -> None:
        self._handler = handler

    def count_bytes(self, scope: Scope, send: Send) -> Send:
        """Wrap an ASGI ``send`` function to count the bytes of a response's body."""
        scope[NUM_BYTES] = 0

        async def count(message: Message) -> None:
            scope[NUM_BYTES] += len(message.get("body", b""))
            await send(message)

        return count

    def write(self, scope: Scope, status: int, seconds: float) -> None:
        """Write the line of a request."""
        self._handler.emit(logging.makeLogRecord({"msg": format_entry(scope, status, seconds)}))


def format_entry(scope: Scope, status: int, seconds: float) -> str:
    """Return a request as JSON, without its body, query and key."""
    client, headers = scope.get("client"), dict(scope["headers"])
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": scope["path"][:MAX_FIELD_LENGTH],
        "status": status,
        "ms": round(1000 * seconds, 3),
        "bytes": scope[NUM_BYTES],
        "request_id": headers.get(REQUEST_ID, b"").decode("latin-1")[:MAX_FIELD_LENGTH] or None,
        "agent": headers.get(b"user-agent", b"").decode("latin-1")[:MAX_FIELD_LENGTH] or None,
    }
    return msgspec.json.encode(entry).decode()
