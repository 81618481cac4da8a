"""The OpenAPI description, from the endpoints and the types that validate them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from fastserve_server.auth import PUBLIC_PATHS
from fastserve_server.schemas import ErrorResponse, InferError
from fastserve_server.web import JSON, PROTOCOL, Endpoint

REFERENCE = "#/components/schemas/{name}"
ERROR_DESCRIPTIONS = {
    "400": "Malformed",
    "401": "The API key is missing or wrong",
    "404": "Not found",
    "413": "Too large",
    "422": "Well formed but unusable",
    "429": "The queue is full; see Retry-After",
    "503": "Not ready, or shutting down",
    "504": "Over the request's deadline",
}


def describe(endpoints: Sequence[Endpoint], models: Sequence[str], guarded: bool = False) -> dict[str, Any]:
    """An OpenAPI 3.1 document; a ``guarded`` server asks for API keys."""
    kinds = [kind for one in endpoints for kind in (one.request_type, one.response_type) if isinstance(kind, type)]
    _, schemas = msgspec.json.schema_components(
        [*dict.fromkeys(kinds), ErrorResponse, InferError], ref_template=REFERENCE
    )
    name = {"type": "string", "enum": list(models)}
    for kind in filter(_names_a_model, kinds):
        schemas[kind.__name__]["properties"]["model"] = name
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(
            one, name, guarded and one.path not in PUBLIC_PATHS
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": f"FastServe: {', '.join(models)}", "version": version("fastserve-core")},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _names_a_model(kind: type | None) -> bool:
    """Whether a request says which model it is for."""
    return kind is not None and kind.__name__.endswith("Request") and "model" in getattr(kind, "__struct_fields__", ())


def _operation(one: Endpoint, model: Mapping[str, Any], guarded: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": one.summary,
        "operationId": one.handler.__name__,
        "responses": {"200": {"description": "Done", "content": _content(one.response_type)}},
    }
    names = re.findall(r"\{(\w+)\}", one.path)
    if parameters := _parameters(names, one.has_model_parameter, model):
        operation["parameters"] = parameters
    if one.request_type is not None:
        operation["requestBody"] = {"required": True, "content": _content(one.request_type)}
    if guarded:
        operation["security"] = [{"key": []}]
    for status in _errors(one, bool(names), guarded):
        error = InferError if one.path.startswith(PROTOCOL) else ErrorResponse
        operation["responses"][status] = {"description": ERROR_DESCRIPTIONS[status], "content": _content(error)}
    return operation


def _parameters(names: Sequence[str], chooses: bool, model: Mapping[str, Any]) -> list[dict[str, Any]]:
    of_path = [
        {"name": name, "in": "path", "required": True, "schema": model if name == "model" else {"type": "string"}}
        for name in names
    ]
    return of_path + ([{"name": "model", "in": "query", "required": False, "schema": model}] if chooses else [])


def _errors(one: Endpoint, named: bool, guarded: bool) -> list[str]:
    apart = {"401": guarded, "404": named or one.has_model_parameter or one.may_404 or _names_a_model(one.request_type)}
    if one.request_type is not None:
        return [status for status in ERROR_DESCRIPTIONS if apart.get(status, True)]
    waits = ["503"] if one.path.endswith("/ready") else []
    return [status for status, said in apart.items() if said] + waits


def _content(kind: type | str) -> Mapping[str, Any]:
    if isinstance(kind, str):
        return {kind: {"schema": {"type": "string"} if kind != JSON else {"type": "object"}}}
    return {JSON: {"schema": {"$ref": REFERENCE.format(name=kind.__name__)}}}
