"""OpenAPI description, built from the endpoints and the types that validate requests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from fastserve_server.auth import PUBLIC_PATHS
from fastserve_server.schemas import ErrorResponse, InferError, PredictResponse
from fastserve_server.web import JSON, PROTOCOL, Endpoint

ANSWER = "Answer"
"""Name of the schema of an answer of ``/predict``."""
REFERENCE = "#/components/schemas/{name}"
ERROR_DESCRIPTIONS = {
    "400": "Malformed",
    "401": "The API key is missing or wrong",
    "404": "Not found",
    "413": "Too large",
    "422": "Well-formed but invalid",
    "429": "The queue is full; see Retry-After",
    "503": "Not ready, or shutting down",
    "504": "The request timed out",
}


def describe(
    endpoints: Sequence[Endpoint], answers: Mapping[str, Mapping[str, Any]], requires_key: bool = False
) -> dict[str, Any]:
    """Build an OpenAPI 3.1 document.

    Args:
        endpoints: The endpoints of the server.
        answers: JSON Schemas of the models' answers, by the names of the models.
        requires_key: Whether requests need an API key.
    """
    models = list(answers)
    kinds = [
        kind
        for endpoint in endpoints
        for kind in (endpoint.request_type, endpoint.response_type)
        if isinstance(kind, type)
    ]
    _, schemas = msgspec.json.schema_components(
        [*dict.fromkeys(kinds), ErrorResponse, InferError], ref_template=REFERENCE
    )
    schemas[ANSWER] = _any_of(list(answers.values()))
    schemas[PredictResponse.__name__]["properties"]["predictions"]["items"] = {"$ref": REFERENCE.format(name=ANSWER)}
    name = {"type": "string", "enum": models}
    for kind in filter(_has_model_field, kinds):
        schemas[kind.__name__]["properties"]["model"] = name
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(
            endpoint, name, requires_key and endpoint.path not in PUBLIC_PATHS
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": f"FastServe: {', '.join(models)}", "version": version("fastserve-core")},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _any_of(alternatives: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the schema of a value that is valid against one of these."""
    different = [schema for index, schema in enumerate(alternatives) if schema not in alternatives[:index]]
    return dict(different[0]) if len(different) == 1 else {"anyOf": different}


def _has_model_field(kind: type | None) -> bool:
    """Whether the body of a request selects a model."""
    return kind is not None and kind.__name__.endswith("Request") and "model" in getattr(kind, "__struct_fields__", ())


def _operation(endpoint: Endpoint, model: Mapping[str, Any], requires_key: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": endpoint.handler.__name__,
        "responses": {"200": {"description": "Done", "content": _content(endpoint.response_type)}},
    }
    names = re.findall(r"\{(\w+)\}", endpoint.path)
    if parameters := _parameters(names, endpoint.has_model_parameter, model):
        operation["parameters"] = parameters
    if endpoint.request_type is not None:
        operation["requestBody"] = {"required": True, "content": _content(endpoint.request_type)}
    if requires_key:
        operation["security"] = [{"key": []}]
    for status in _errors(endpoint, bool(names), requires_key):
        error = InferError if endpoint.path.startswith(PROTOCOL) else ErrorResponse
        operation["responses"][status] = {"description": ERROR_DESCRIPTIONS[status], "content": _content(error)}
    return operation


def _parameters(names: Sequence[str], has_model_parameter: bool, model: Mapping[str, Any]) -> list[dict[str, Any]]:
    path_parameters = [
        {"name": name, "in": "path", "required": True, "schema": model if name == "model" else {"type": "string"}}
        for name in names
    ]
    return path_parameters + (
        [{"name": "model", "in": "query", "required": False, "schema": model}] if has_model_parameter else []
    )


def _errors(endpoint: Endpoint, has_parameters: bool, requires_key: bool) -> list[str]:
    conditions = {
        "401": requires_key,
        "404": has_parameters
        or endpoint.has_model_parameter
        or endpoint.may_404
        or _has_model_field(endpoint.request_type),
    }
    if endpoint.request_type is not None:
        return [status for status in ERROR_DESCRIPTIONS if conditions.get(status, True)]
    unavailable = ["503"] if endpoint.path.endswith("/ready") else []
    return [status for status, possible in conditions.items() if possible] + unavailable


def _content(kind: type | str) -> Mapping[str, Any]:
    if isinstance(kind, str):
        return {kind: {"schema": {"type": "string"} if kind != JSON else {"type": "object"}}}
    return {JSON: {"schema": {"$ref": REFERENCE.format(name=kind.__name__)}}}
