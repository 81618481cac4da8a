"""Additions to uvicorn's HTTP connections: a timeout for headers, and responses sent in one piece.

``HttpToolsProtocol`` is not a public interface of uvicorn: ``pyproject.toml`` bounds its version, and
``tests/test_uvicorn.py`` checks every part that is used here.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 10.0
IDLE_S = 75.0
"""Longer than clients keep idle connections, so that the server does not close one that a client is about to use."""
MAX_HEADER_BYTES = 65_536
WRITE_BUFFER_BYTES = 65_536
TIMEOUT_RESPONSE, HEADERS_TOO_LARGE_RESPONSE = (
    f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    for status in ("408 Request Timeout", "431 Request Header Fields Too Large")
)


class CoalescingTransport:
    """Transport that sends everything written in one turn of the event loop together.

    uvicorn writes the head and the body of a response separately. Each would need a system call and a packet, which
    took a sixth of the event loop's time for a short response.

    Args:
        transport: Sends the data; all other methods are those of this transport.
        loop: Its event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._buffer: list[bytes] = []
        self._num_bytes = 0

    def write(self, data: bytes) -> None:
        """Send data at the end of this turn of the loop, or at once if the buffer is full."""
        if not self._buffer:
            self._loop.call_soon(self._flush)
        self._buffer.append(data)
        self._num_bytes += len(data)
        if self._num_bytes > WRITE_BUFFER_BYTES:  # so that the transport can apply backpressure
            self._flush()

    def close(self) -> None:
        """Send buffered data and close the transport."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._buffer:
            self._transport.write(b"".join(self._buffer))
            self._buffer, self._num_bytes = [], 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class TimeoutHttpProtocol(HttpToolsProtocol):
    """Closes connections without a first byte within ``IDLE_S`` seconds, or with incomplete or too large headers.

    A request's headers must arrive within ``HEADERS_S`` seconds of its first byte, and have at most
    ``MAX_HEADER_BYTES`` bytes.
    """

    _timer: asyncio.TimerHandle | None = None
    _reading_headers, _header_bytes = True, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout for the first byte."""
        super().connection_made(CoalescingTransport(transport, self.loop))  # type: ignore[arg-type]
        self._timer = self.loop.call_later(IDLE_S, self._reject, TIMEOUT_RESPONSE)

    def data_received(self, data: bytes) -> None:
        """Parse data, and check the time and the size of headers."""
        super().data_received(data)
        if not self._reading_headers:  # the headers are complete, or a response is being sent
            self._cancel_timer()
            return
        is_first = not self._header_bytes
        self._header_bytes += len(data)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._reject(HEADERS_TOO_LARGE_RESPONSE)
        elif is_first:
            self._cancel_timer()
            self._timer = self.loop.call_later(HEADERS_S, self._reject, TIMEOUT_RESPONSE)

    def on_message_begin(self) -> None:
        """Start counting the bytes of a request's headers."""
        self._reading_headers, self._header_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting: the timeout does not apply to the body."""
        self._reading_headers = False
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        self._cancel_timer()
        super().connection_lost(exc)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _reject(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)
            self.transport.close()
