"""What uvicorn's connections lack: an end of waiting for headers, and answers that leave in one piece."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 10.0
IDLE_S = 75.0
"""Longer than clients keep idle connections, so that none is closed just when it is used."""
HEADER_BYTES = 65_536
WRITE_BUFFER_BYTES = 65_536
TIMEOUT_RESPONSE, HEADERS_TOO_LARGE_RESPONSE = (
    f"HTTP/1.1 {said}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    for said in ("408 Request Timeout", "431 Request Header Fields Too Large")
)


class CoalescingTransport:
    """A transport that sends what is written in one turn of the loop together.

    uvicorn writes an answer's head and its body apart. Each would be a system call and a packet of its own, which was a
    sixth of the loop's time for a short answer.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []
        self._bytes = 0

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)
        self._bytes += len(data)
        if self._bytes > WRITE_BUFFER_BYTES:  # so that the transport can say when it is enough
            self._send()

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._held:
            self._transport.write(b"".join(self._held))
            self._held, self._bytes = [], 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class TimeoutHttpProtocol(HttpToolsProtocol):
    """Gives the first byte of all ``IDLE_S`` seconds, and from the first one the headers of a request ``HEADERS_S``."""

    _waits: asyncio.TimerHandle | None = None
    _reading, _read = True, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(CoalescingTransport(transport, self.loop))  # type: ignore[arg-type]
        self._waits = self.loop.call_later(IDLE_S, self._refuse, TIMEOUT_RESPONSE)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._reading:  # the headers are there, or an answer is on its way
            self._stop_waiting()
            return
        begins = not self._read
        self._read += len(data)
        if self._read > HEADER_BYTES:
            self._refuse(HEADERS_TOO_LARGE_RESPONSE)
        elif begins:
            self._stop_waiting()
            self._waits = self.loop.call_later(HEADERS_S, self._refuse, TIMEOUT_RESPONSE)

    def on_message_begin(self) -> None:
        self._reading, self._read = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._reading = False
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None

    def _refuse(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()
