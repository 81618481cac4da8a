"""The parts of uvicorn that are not its public interface, and that the server overrides or reads."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from fastserve_server.connections import TimeoutHttpProtocol
from fastserve_server.process import GracefulServer

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("kind", "method", "parameters"),
    [
        (HttpToolsProtocol, "__init__", ["self", "config", "server_state", "app_state", "_loop"]),
        (HttpToolsProtocol, "connection_made", ["self", "transport"]),
        (HttpToolsProtocol, "connection_lost", ["self", "exc"]),
        (HttpToolsProtocol, "data_received", ["self", "data"]),
        (HttpToolsProtocol, "on_message_begin", ["self"]),
        (HttpToolsProtocol, "on_headers_complete", ["self"]),
        (uvicorn.Server, "handle_exit", ["self", "sig", "frame"]),
        (uvicorn.Server, "serve", ["self", "sockets"]),
    ],
)
def test_the_methods_have_the_expected_parameters(kind: type, method: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(kind, method)).parameters) == parameters


def test_the_server_overrides_only_methods_that_exist() -> None:
    for kind, base in ((TimeoutHttpProtocol, HttpToolsProtocol), (GracefulServer, uvicorn.Server)):
        own = {name for name, value in vars(kind).items() if inspect.isfunction(value) and not name.startswith("_")}
        assert own
        assert all(hasattr(base, name) for name in own)


class MemoryTransport(asyncio.Transport):
    """Records what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def test_a_request_passes_through_the_overridden_methods() -> None:
    async def scene() -> None:
        config = uvicorn.Config(application, http=TimeoutHttpProtocol, ws="none", lifespan="off", log_level="critical")
        config.load()
        assert config.http_protocol_class is TimeoutHttpProtocol
        protocol = TimeoutHttpProtocol(config, ServerState(), {})
        transport = MemoryTransport()
        protocol.connection_made(transport)
        assert protocol._timer is not None, "a silent client is not disconnected"
        protocol.data_received(REQUEST[:10])
        assert protocol._reading_headers
        assert protocol._header_bytes == 10
        protocol.data_received(REQUEST[10:])
        assert not protocol._reading_headers, "uvicorn does not report the end of the headers"
        assert protocol._timer is None
        while not transport.writes:
            await asyncio.sleep(0)
        assert len(transport.writes) == 1, "head and body leave in two pieces"
        assert transport.writes[0].endswith(b"\r\n\r\nok")
        protocol.connection_lost(None)

    asyncio.run(asyncio.wait_for(scene(), 10))
