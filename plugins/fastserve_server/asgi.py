"""Every request's way to its endpoint: its key, its path, what goes wrong; it is counted and written down."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Router, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from fastserve_server.access_log import AccessLog
from fastserve_server.auth import ApiKeyAuth
from fastserve_server.metrics import UNMATCHED
from fastserve_server.model_registry import ModelRegistry
from fastserve_server.requests import Unavailable
from fastserve_server.tracing import Tracing
from fastserve_server.web import DEADLINE, MODELS, Endpoint, error_response

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


class Dispatcher:
    """An ASGI application of endpoints.

    It does in one step what is usually a stack of middlewares round a router, which took longer than all the rest of a
    short request on the event loop. ``lifespan`` starts and stops what answers.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        models: ModelRegistry,
        guard: ApiKeyAuth,
        log: AccessLog | None,
        traces: Tracing | None,
        lifespan: Lifespan,
    ) -> None:
        self.state = State({"hosted": models, "guarded": guard.asks})
        self.router = Router(lifespan=lifespan)
        self._paths, self._models, self._guard, self._log = PathRouter(endpoints), models, guard, log
        self._answered: ASGIApp = self._answer if traces is None else traces.middleware(self._answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        if scope["type"] == "http":
            await self._answered(scope, receive, send)
        else:
            await self.router(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin = time.perf_counter()
        scope[MODELS], scope[DEADLINE] = (
            self._models,
            asyncio.get_running_loop().time() + self._models.options.request_timeout_s,
        )
        if self._log is not None:
            send = self._log.counting(scope, send)
        status, path = 500, UNMATCHED  # what becomes of a request that nothing in here answers
        request = Request(scope, receive, send)
        try:
            try:
                self._guard.check(request)
                endpoint, scope["path_params"] = self._paths.find(scope)
                path = endpoint.path
                response = await endpoint.handler(request)
            except Exception as error:
                response = error_response(request, error)
            except asyncio.CancelledError:
                if not self._models.draining:
                    raise
                # the host ran out of patience; the client still gets a reason
                response = error_response(request, Unavailable("the server is shutting down"))
            status = response.status_code
            await response(scope, receive, send)
        finally:
            seconds = time.perf_counter() - begin
            self._models.metrics.record_request(path, status, seconds)
            if self._log is not None:
                self._log.write(scope, status, seconds)


class PathRouter:
    """Endpoints by their path; those without a name in it are found at once."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._fixed: dict[str, dict[str, Endpoint]] = {}
        self._named: dict[re.Pattern[str], dict[str, Endpoint]] = {}
        for one in endpoints:
            if "{" in one.path:
                methods = self._named.setdefault(compile_path(one.path)[0], {})
            else:
                methods = self._fixed.setdefault(one.path, {})
            methods[one.method] = one
            if one.method == "GET":
                methods["HEAD"] = one

    def find(self, scope: Scope) -> tuple[Endpoint, Mapping[str, str]]:
        """The endpoint of a request and the names in its path; raises a 404 or 405."""
        path, prefix, method = scope["path"], scope.get("root_path", ""), scope["method"]
        if prefix and (path + "/").startswith(prefix + "/"):  # a host may serve below a path of its own
            path = path[len(prefix) :] or "/"
        names: dict[str, str] = {}
        methods = self._fixed.get(path)
        if methods is None:
            methods, names = self._by_name(path)
        endpoint = methods.get(method)
        if endpoint is None:
            raise HTTPException(405, f"{path} does not take {method}", {"Allow": ", ".join(methods)})
        return endpoint, names

    def _by_name(self, path: str) -> tuple[dict[str, Endpoint], dict[str, str]]:
        for pattern, methods in self._named.items():
            if match := pattern.match(path):
                return methods, match.groupdict()
        raise HTTPException(404, f"there is nothing at {path}; see /docs")
