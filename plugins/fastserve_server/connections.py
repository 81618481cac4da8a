"""Additions to uvicorn's HTTP connections: timeouts, clients that close their side, and responses sent in one piece.

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
BODY_AFTER_RESPONSE_S = 5.0
"""Time for the rest of a body after its response, so that a client that is still sending receives the response."""
PROBE_S = 0.5
"""Interval of the interim responses to a client that has closed its side, two of which show whether it is gone."""
INTERIM_RESPONSE = b"HTTP/1.1 100 Continue\r\n\r\n"
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
    ``MAX_HEADER_BYTES`` bytes. The rest of a body must arrive within ``BODY_AFTER_RESPONSE_S`` seconds of its response.

    A client that closes its side after a complete request receives the response. Whether it has closed the whole
    connection cannot be seen, but only found out by sending: interim responses, which clients skip.
    """

    _timer: asyncio.TimerHandle | None = None
    _end_timer: asyncio.TimerHandle | None = None
    _reading_headers, _header_bytes, _has_whole_request = True, 0, False

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
        self._reading_headers, self._header_bytes, self._has_whole_request = True, 0, False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting: the timeout does not apply to the body."""
        self._reading_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the timeout for the rest of a body."""
        self._has_whole_request = True
        self._cancel_end_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the timeout for the rest of a body."""
        super().on_response_complete()
        is_reading_body = not self._reading_headers and not self._has_whole_request
        if is_reading_body and self.cycle.response_complete:  # and not that of an earlier request
            self._end_timer = self.loop.call_later(BODY_AFTER_RESPONSE_S, self.transport.close)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection until the response is sent, if the client has sent a whole request."""
        if self.cycle is None or self.cycle.response_complete or not self._has_whole_request:
            self.transport.close()  # rather than the loop, so that a buffered response is sent
        else:
            self.cycle.keep_alive = False
            self._end_timer = self.loop.call_later(PROBE_S, self._probe)
        return True

    def _probe(self) -> None:
        """Send an interim response, unless a response has begun; if the client is gone, the second one fails."""
        if self.transport.is_closing() or self.cycle.response_started:
            return
        if not self.pipeline and self.scope["http_version"] == "1.1":
            self.transport.write(INTERIM_RESPONSE)
        self._end_timer = self.loop.call_later(PROBE_S, self._probe)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeouts."""
        self._cancel_timer()
        self._cancel_end_timer()
        super().connection_lost(exc)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_end_timer(self) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None

    def _reject(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)
            self.transport.close()
