"""Headers that do not come, do not end, or come a byte at a time; and requests that have nothing to do with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn

from fastserve_server import connections
from fastserve_server.connections import TimeoutHttpProtocol

pytestmark = pytest.mark.seconds(1.5)
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
Scene = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


LARGE = bytes(range(256)) * 4096


LEFT: list[str] = []
"""Paths of the requests whose clients left before the response."""


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"].startswith("/wait"):
        while (await receive())["more_body"]:
            pass
        try:
            async with asyncio.timeout(0.5 if scope["path"] == "/wait" else 10):
                assert (await receive())["type"] == "http.disconnect"
            LEFT.append(scope["path"])
        except TimeoutError:
            pass
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
    monkeypatch.setattr(connections, "BODY_AFTER_RESPONSE_S", 0.3)
    monkeypatch.setattr(connections, "PROBE_S", 0.1)


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


def test_the_rest_is_sent_before_a_connection_is_closed() -> None:
    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await reader.read()).endswith(b"ok")

    play(scene)


def request(path: str, body: bytes = b"", version: str = "1.1", length: int | None = None) -> bytes:
    head = f"POST {path} HTTP/{version}\r\nHost: here\r\nContent-Length: {len(body) if length is None else length}"
    return head.encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("requests", [("/",), ("/wait",), ("/slow",), ("/wait", "/slow", "/large")])
def test_a_client_that_has_closed_its_side_gets_its_answers(version: str, requests: tuple[str, ...]) -> None:
    if version == "1.0" and len(requests) > 1:
        return  # its connections have one request

    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(request(path, b"text", version) for path in requests))
        writer.write_eof()
        received = await reader.read()
        finals = received.replace(connections.INTERIM_RESPONSE, b"").split(b"HTTP/1.1 200 OK\r\n")[1:]
        assert len(finals) == len(requests)
        assert finals[-1].endswith(LARGE if requests[-1] == "/large" else b"ok")
        if requests == ("/wait",):
            assert (connections.INTERIM_RESPONSE in received) == (version == "1.1")

    play(scene)


@pytest.mark.parametrize("sent", [b"", REQUEST[:-2], request("/wait", b"half", length=8)])
def test_a_client_that_has_closed_its_side_too_early_gets_nothing(sent: bytes) -> None:
    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == b""

    play(scene)


def test_a_client_that_has_closed_the_connection_is_noticed() -> None:
    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        LEFT.clear()
        writer.write(request("/wait-long"))
        await asyncio.sleep(0.05)
        writer.close()
        while LEFT != ["/wait-long"]:
            await asyncio.sleep(0.01)

    play(scene)


def test_a_body_that_trickles_after_its_answer_has_an_end() -> None:
    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def read_to_end() -> None:
            await reader.readuntil(b"ok")
            with suppress(ConnectionResetError):  # a byte that is sent after the end is answered so
                assert await reader.read() == b""

        writer.write(request("/", length=10_000))
        end = asyncio.ensure_future(read_to_end())
        begin = asyncio.get_running_loop().time()
        while not end.done():
            writer.write(b"a")
            await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - begin < 5
        await end

    play(scene)


def test_a_body_that_ends_after_its_answer_keeps_the_connection() -> None:
    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request("/", length=2))
        assert await status(reader) == b"200 OK"
        writer.write(b"ab")
        await asyncio.sleep(0.5)
        writer.write(REQUEST)
        await reader.readuntil(b"ok")
        assert await status(reader) == b"200 OK"

    play(scene)
