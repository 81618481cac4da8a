"""OpenAPI description, built from the endpoints, the types that validate requests, and the tasks' answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from fastserve_core.inference import describe_prediction
from fastserve_core.tasks import Task
from fastserve_server.auth import PUBLIC_PATHS
from fastserve_server.schemas import ErrorResponse, InferError, PredictRequest, PredictResponse
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


def describe(endpoints: Sequence[Endpoint], tasks: Mapping[str, Task], requires_key: bool = False) -> dict[str, Any]:
    """Build an OpenAPI 3.1 document.

    Args:
        endpoints: The endpoints of the server.
        tasks: The tasks of the models, by the names of the models.
        requires_key: Whether requests need an API key.
    """
    kinds = [kind for endpoint in endpoints for kind in (endpoint.request_type, endpoint.response_type)]
    types = [*dict.fromkeys([*filter(_is_described, kinds), ErrorResponse, InferError])]
    found, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    schemas = dict(zip(types, found, strict=True))
    answers = [describe_prediction(task) for task in tasks.values()]
    _component(components, schemas[PredictResponse])["properties"]["predictions"]["items"] = _any_of(answers)
    body = _component(components, schemas[PredictRequest])["properties"]
    parameters = _any_of([_describe_parameters(task) for task in tasks.values()])
    for name in ("parameters", "options"):
        body[name] = {**parameters, "description": body[name]["description"], "default": {}}
    for endpoint in endpoints:
        if _has_model_field(endpoint, schemas, components):
            _component(components, schemas[endpoint.request_type])["properties"]["model"] = _model_names(tasks)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        may_404 = endpoint.may_404 or _has_model_field(endpoint, schemas, components)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(
            endpoint, schemas, _model_names(tasks), requires_key and endpoint.path not in PUBLIC_PATHS, may_404
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": f"FastServe: {', '.join(tasks)}", "version": version("fastserve-core")},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _is_described(kind: Any) -> bool:
    """Return whether it is a type and not a content type."""
    return kind is not None and not isinstance(kind, str)


def _model_names(tasks: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "string", "enum": list(tasks)}


def _describe_parameters(task: Task) -> dict[str, Any]:
    """Return the JSON Schema of the parameters of a request for a task; their defaults are the model's options."""
    _, components = msgspec.json.schema_components([task.Options], ref_template=REFERENCE)
    properties = components.get(task.Options.__name__, {}).get("properties", {})
    options = vars(task.options)
    described = {
        name: {**properties[option], "default": options[option]} for name, option in task.request_parameters.items()
    }
    return {"type": "object", "properties": described, "additionalProperties": False}


def _any_of(alternatives: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the schema of a value of any of the models."""
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
