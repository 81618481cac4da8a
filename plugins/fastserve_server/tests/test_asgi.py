"""Which endpoint a request is for."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fastserve_server.asgi import PathRouter
from fastserve_server.web import Endpoint


async def handler(request: Request) -> Response:
    return Response()


GET, POST, NAMED, BELOW = (
    Endpoint(method, path, handler, path)
    for method, path in (("GET", "/"), ("POST", "/ask"), ("GET", "/of/{model}"), ("POST", "/of/{model}/ask"))
)
PATHS = PathRouter([GET, POST, NAMED, BELOW])


@pytest.mark.parametrize(
    ("method", "path", "prefix", "endpoint", "names"),
    [
        ("GET", "/", "", GET, {}),
        ("HEAD", "/", "", GET, {}),
        ("POST", "/ask", "", POST, {}),
        ("GET", "/of/a-model", "", NAMED, {"model": "a-model"}),
        ("POST", "/of/a model/ask", "", BELOW, {"model": "a model"}),
        ("POST", "/below/ask", "/below", POST, {}),
        ("GET", "/below", "/below", GET, {}),
        ("POST", "/ask", "/below", POST, {}),
    ],
)
def test_it_is_found(method: str, path: str, prefix: str, endpoint: Endpoint, names: dict[str, str]) -> None:
    assert PATHS.find({"method": method, "path": path, "root_path": prefix}) == (endpoint, names)


@pytest.mark.parametrize(
    ("method", "path", "status", "headers"),
    [
        ("GET", "/nowhere", 404, None),
        ("GET", "/of/", 404, None),
        ("GET", "/belowask", 404, None),
        ("GET", "/of/a/b", 404, None),
        ("POST", "/ask/", 404, None),
        ("GET", "/ask", 405, {"Allow": "POST"}),
        ("DELETE", "/of/a", 405, {"Allow": "GET, HEAD"}),
    ],
)
def test_there_is_none(method: str, path: str, status: int, headers: Any) -> None:
    with pytest.raises(HTTPException) as told:
        PATHS.find({"method": method, "path": path, "root_path": "/below"})
    assert (told.value.status_code, told.value.headers) == (status, headers)
