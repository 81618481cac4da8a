"""Endpoints of the routes that the tasks of the served models declare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fastserve_core.errors import OptionError, PlanError, PluginError
from fastserve_core.tasks import GenerationRoute, PredictionRoute, Route
from fastserve_server.generation.streaming import generate
from fastserve_server.model_registry import ModelRegistry
from fastserve_server.service import Service
from fastserve_server.web import Endpoint, await_or_disconnect, check_num_inputs, decode, models_of, read_body, reply


def task_endpoints(models: ModelRegistry, taken: Collection[str]) -> list[Endpoint]:
    """Return an endpoint for each route of the models' tasks.

    Args:
        models: The models of the server.
        taken: Paths that every server has.

    Raises:
        PluginError: A task declares a path that is taken or not valid, or a route of an unknown kind.
        OptionError: The tasks of two models have different routes at one path.
    """
    first: dict[str, tuple[Service, Route]] = {}
    for service in models:
        for path, route in service.routes.items():
            _check_route(service, route, taken)
            other, same = first.setdefault(path, (service, route))
            if type(same) is not type(route):
                raise OptionError(
                    f"{models.options.where}.models: the models '{other.name}' and '{service.name}' have different "
                    f"routes at {path}: serve them with two servers"
                )
    return [_endpoint(route) for _, route in first.values()]


def _check_route(service: Service, route: Route, taken: Collection[str]) -> None:
    reason = ""
    if not route.path.startswith("/") or set("{}? #") & set(route.path):
        reason = "a path begins with / and has no parameters"
    elif route.path in taken:
        reason = "every server has this path"
    elif not isinstance(route, PredictionRoute | GenerationRoute):
        reason = "a route derives from PredictionRoute or GenerationRoute"
    try:
        msgspec.json.schema_components([route.request_type, route.response_type])
    except TypeError as error:
        reason = f"its types have no JSON Schema: {error}"
    if reason:
        raise PluginError(f"the task {service.task.name} declares the route '{route.path}': {reason}")


def _endpoint(route: Route) -> Endpoint:
    return Endpoint(
        "POST",
        route.path,
        partial(_answer, route),
        route.summary,
        route.request_type,
        route.response_type,
        name=route.path.strip("/").replace("/", "_"),
    )


async def _answer(declared: Route, request: Request) -> Response:
    """Answer a request with the route of the model that it selects."""
    body = decode(declared.request_type, await read_body(request))
    service = _select(models_of(request), declared.path, _model_of(body))
    route = service.routes[declared.path]
    if isinstance(route, GenerationRoute):
        return await generate(request, service, route, body)
    assert isinstance(route, PredictionRoute)
    inputs = await _call(route, route.inputs, body)
    check_num_inputs(service, len(inputs))
    answers: Any = []
    if inputs:
        pending = models_of(request).predict(service, inputs, route.parameters(body))
        answers = await await_or_disconnect(request, pending)
    return reply(await _call(route, route.response, body, answers, service.name))


async def _call(route: Route, method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method of a route, in a thread if it blocks."""
    return await asyncio.to_thread(method, *arguments) if route.is_blocking else method(*arguments)


def _model_of(body: Any) -> str | None:
    name = body.get("model") if isinstance(body, Mapping) else getattr(body, "model", None)
    return None if name is None else str(name)


def _select(models: ModelRegistry, path: str, name: str | None) -> Service:
    """Return the service of a model, by default of the first one whose task has this route."""
    service = next(service for service in models if path in service.routes) if name is None else models.get(name)
    if path not in service.routes:
        raise PlanError(f"the model '{service.name}' is for {service.task.name}, which has no {path}: use /predict")
    return service
