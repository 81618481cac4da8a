"""Dispatch of requests to endpoints: authentication, routing, errors, metrics and the access log."""

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
from fastserve_server.engine_loop import SHUTTING_DOWN
from fastserve_server.metrics import UNMATCHED
from fastserve_server.model_registry import ModelRegistry
from fastserve_server.requests import UnavailableError
from fastserve_server.tracing import Tracing
from fastserve_server.web import DEADLINE, MODELS, Endpoint, check_query, error_response

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


class Dispatcher:
    """ASGI application of endpoints.

    It replaces the usual stack of middlewares around a router. That stack took longer than everything
    else that the event loop does for a short request.

    Args:
        endpoints: The endpoints.
        models: The models of the server.
        auth: Checks API keys.
        log: Access log, or ``None``.
        tracing: Tracing of requests, or ``None``.
        lifespan: Context manager that starts and stops the models.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        models: ModelRegistry,
        auth: ApiKeyAuth,
        log: AccessLog | None,
        tracing: Tracing | None,
        lifespan: Lifespan,
    ) -> None:
        self.state = State({"models": models, "endpoints": tuple(endpoints), "requires_key": auth.is_enabled})
        self.router = Router(lifespan=lifespan)
        self._paths, self._models, self._auth, self._log = PathRouter(endpoints), models, auth, log
        self._http: ASGIApp = self._answer if tracing is None else tracing.middleware(self._answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI connection."""
        scope["app"] = self
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self.router(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin = time.perf_counter()
        scope[MODELS] = self._models
        scope[DEADLINE] = asyncio.get_running_loop().time() + self._models.options.request_timeout_s
        if self._log is not None:
            send = self._log.count_bytes(scope, send)
        status, path = 500, UNMATCHED  # of a request that fails before it has a response
        request = Request(scope, receive, send)
        try:
            try:
                self._auth.check(request)
                endpoint, scope["path_params"] = self._paths.find(scope)
                path = endpoint.path
                check_query(request, endpoint)
                response = await endpoint.handler(request)
            except Exception as error:
                response = error_response(request, error)
            except asyncio.CancelledError:
                if not self._models.draining:
                    raise
                # the time to drain is over; the client still gets a reason
                response = error_response(request, UnavailableError(SHUTTING_DOWN))
            status = response.status_code
            if self._models.draining:
                response.headers["Connection"] = "close"
            await response(scope, receive, send)
        finally:
            seconds = time.perf_counter() - begin
            self._models.metrics.record_request(path, status, seconds)
            if self._log is not None:
                self._log.write(scope, status, seconds)


class PathRouter:
    """Finds endpoints by path and method; a path without parameters is a dictionary lookup."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._static: dict[str, dict[str, Endpoint]] = {}
        self._patterns: dict[re.Pattern[str], dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            if "{" in endpoint.path:
                methods = self._patterns.setdefault(compile_path(endpoint.path)[0], {})
            else:
                methods = self._static.setdefault(endpoint.path, {})
            methods[endpoint.method] = endpoint
            if endpoint.method == "GET":
                methods["HEAD"] = endpoint

    def find(self, scope: Scope) -> tuple[Endpoint, Mapping[str, str]]:
        """Find the endpoint of a request.

        Returns:
            The endpoint and the parameters in its path.

        Raises:
            HTTPException: 404 for an unknown path, 405 for a method that the path does not have.
        """
        path, prefix, method = scope["path"], scope.get("root_path", ""), scope["method"]
        if prefix and (path + "/").startswith(prefix + "/"):  # the application may be mounted below a path
            path = path[len(prefix) :] or "/"
        parameters: dict[str, str] = {}
        methods = self._static.get(path)
        if methods is None:
            methods, parameters = self._match(path)
        endpoint = methods.get(method)
        if endpoint is None:
            raise HTTPException(405, f"{path} does not support {method}", {"Allow": ", ".join(methods)})
        return endpoint, parameters

    def _match(self, path: str) -> tuple[dict[str, Endpoint], dict[str, str]]:
        for pattern, methods in self._patterns.items():
            if match := pattern.match(path):
                return methods, match.groupdict()
        raise HTTPException(404, f"unknown path {path}; see /docs")
