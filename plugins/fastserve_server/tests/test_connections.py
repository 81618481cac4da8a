"""Headers that do not come, do not end, or come a byte at a time; and requests that have nothing to do with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from fastserve_server import connections
from fastserve_server.connections import BoundedConnection

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
Scene = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    config = uvicorn.Config(application, port=0, http=BoundedConnection, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


def play(scene: Scene) -> None:
    async def run() -> None:
        async with listening() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await scene(reader, writer)
            writer.close()

    asyncio.run(asyncio.wait_for(run(), 20))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 1.0)
    monkeypatch.setattr(connections, "IDLE_S", 3.0)


async def status(reader: asyncio.StreamReader) -> bytes:
    return (await reader.readline()).split(b" ", 1)[1].strip()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", REQUEST[:-2]])
def test_headers_that_do_not_end_are_408(sent: bytes) -> None:
    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        assert await status(reader) == b"408 Request Timeout"
        assert (await reader.read()).endswith(b"\r\n\r\n"), "the connection is closed"

    play(scene)


def test_a_byte_now_and_then_does_not_help() -> None:
    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = asyncio.ensure_future(status(reader))
        for number in range(200):
            if answer.done():
                break
            writer.write(b"GET / HTTP/1.1\r\nX: "[number : number + 1] or b"a")
            await asyncio.sleep(0.02)
        assert number < 150
        assert await answer == b"408 Request Timeout"

    play(scene)


def test_headers_without_end_are_431() -> None:
    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\n")
        for number in range(80):
            writer.write(b"X-%d: " % number + b"a" * 1000 + b"\r\n")
        assert await status(reader) == b"431 Request Header Fields Too Large"

    play(scene)


def test_requests_one_after_the_other_are_answered_whenever_they_come() -> None:
    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for pause in (1.5, 1.5, 0.0):  # longer than headers may take, before the first byte and between requests
            await asyncio.sleep(pause)
            writer.write(REQUEST[:9])
            await asyncio.sleep(0.05)
            writer.write(REQUEST[9:])
            assert await status(reader) == b"200 OK"
            assert (await reader.readuntil(b"ok")).endswith(b"ok")
        writer.write(REQUEST[:9])
        assert await status(reader) == b"408 Request Timeout"

    play(scene)
