"""OpenAPI description, built from the endpoints, the types that validate requests, and the tasks' answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from fastserve_server.auth import PUBLIC_PATHS
from fastserve_server.schemas import ErrorResponse, InferError, PredictResponse
from fastserve_server.web import JSON, PROTOCOL, Endpoint

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
    kinds = [kind for endpoint in endpoints for kind in (endpoint.request_type, endpoint.response_type)]
    types = [*dict.fromkeys([*filter(_is_described, kinds), ErrorResponse, InferError])]
    found, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    schemas = dict(zip(types, found, strict=True))
    _component(components, schemas[PredictResponse])["properties"]["predictions"]["items"] = _any_of(answers)
    for endpoint in endpoints:
        if _has_model_field(endpoint, schemas, components):
            _component(components, schemas[endpoint.request_type])["properties"]["model"] = _model_names(answers)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        may_404 = endpoint.may_404 or _has_model_field(endpoint, schemas, components)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(
            endpoint, schemas, _model_names(answers), requires_key and endpoint.path not in PUBLIC_PATHS, may_404
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": f"FastServe: {', '.join(answers)}", "version": version("fastserve-core")},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _is_described(kind: Any) -> bool:
    """Return whether it is a type and not a content type."""
    return kind is not None and not isinstance(kind, str)


def _model_names(answers: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "string", "enum": list(answers)}


def _any_of(answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the schema of an answer of any of the models."""
    alternatives = list(answers.values())
    different = [schema for index, schema in enumerate(alternatives) if schema not in alternatives[:index]]
    return dict(different[0]) if len(different) == 1 else {"anyOf": different}


def _component(components: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the component that a schema refers to; an empty one if it refers to none."""
    component: dict[str, Any] = components.get(schema.get("$ref", "").rpartition("/")[2], {})
    return component


def _has_model_field(endpoint: Endpoint, schemas: Mapping[Any, Any], components: Mapping[str, Any]) -> bool:
    """Return whether the body of the request selects a model."""
    return "model" in _component(components, schemas.get(endpoint.request_type, {})).get("properties", {})


def _operation(
    endpoint: Endpoint, schemas: Mapping[Any, Any], model: Mapping[str, Any], requires_key: bool, may_404: bool
) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", endpoint.path)
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": endpoint.name or "_".join([endpoint.handler.__name__, *names[1:]]),
        "responses": {"200": {"description": "Done", "content": _content(endpoint.response_type, schemas)}},
    }
    if parameters := _parameters(names, endpoint.has_model_parameter, model):
        operation["parameters"] = parameters
    if endpoint.request_type is not None:
        operation["requestBody"] = {"required": True, "content": _content(endpoint.request_type, schemas)}
    if requires_key:
        operation["security"] = [{"key": []}]
    for status in _errors(endpoint, requires_key, may_404 or bool(names) or endpoint.has_model_parameter):
        error = InferError if endpoint.path.startswith(PROTOCOL) else ErrorResponse
        operation["responses"][status] = {
            "description": ERROR_DESCRIPTIONS[status],
            "content": _content(error, schemas),
        }
    return operation


def _parameters(names: Sequence[str], has_model_parameter: bool, model: Mapping[str, Any]) -> list[dict[str, Any]]:
    path_parameters = [
        {"name": name, "in": "path", "required": True, "schema": model if name == "model" else {"type": "string"}}
        for name in names
    ]
    return path_parameters + (
        [{"name": "model", "in": "query", "required": False, "schema": model}] if has_model_parameter else []
    )


def _errors(endpoint: Endpoint, requires_key: bool, may_404: bool) -> list[str]:
    conditions = {"401": requires_key, "404": may_404, "422": endpoint.has_model_parameter}
    if endpoint.request_type is not None:
        return [status for status in ERROR_DESCRIPTIONS if status == "422" or conditions.get(status, True)]
    unavailable = ["503"] if endpoint.path.endswith("/ready") else []
    return [status for status, possible in conditions.items() if possible] + unavailable


def _content(kind: Any, schemas: Mapping[Any, Any]) -> Mapping[str, Any]:
    if isinstance(kind, str):
        return {kind: {"schema": {"type": "string"} if kind != JSON else {"type": "object"}}}
    return {JSON: {"schema": schemas[kind]}}
