"""Headers that do not come, do not end, or come a byte at a time; and requests that have nothing to do with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from fastserve_server import connections
from fastserve_server.connections import TimeoutHttpProtocol

pytestmark = pytest.mark.seconds(1.5)
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
Scene = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


LARGE = bytes(range(256)) * 4096


async def application(scope: Any, receive: Any, send: Any) -> None:
    parts = {"/large": [LARGE[:700_000], LARGE[700_000:]], "/slow": [b"o", b"k"]}.get(scope["path"], [b"ok"])
    length = str(sum(map(len, parts))).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    for number, part in enumerate(parts, 1):
        await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})
        await asyncio.sleep(0.2 if scope["path"] == "/slow" else 0)


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    config = uvicorn.Config(application, port=0, http=TimeoutHttpProtocol, lifespan="off", log_level="error")
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


def test_a_short_answer_leaves_in_one_piece_a_long_one_whole_and_a_slow_one_in_its_parts() -> None:
    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(REQUEST)
        assert (await reader.read(10_000)).endswith(b"\r\n\r\nok")
        writer.write(REQUEST.replace(b"/ ", b"/large ", 1))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(len(LARGE)) == LARGE
        writer.write(REQUEST.replace(b"/ ", b"/slow ", 1))
        assert (await reader.read(10_000)).endswith(b"\r\n\r\no")
        assert await reader.read(10_000) == b"k"

    play(scene)


def test_what_is_left_is_sent_before_a_connection_is_closed() -> None:
    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await reader.read()).endswith(b"ok")

    play(scene)
