"""Open Inference Protocol, version 2, with its binary tensor extension.

See https://github.com/kserve/open-inference-protocol and, for binary tensors, Triton's extension_binary_data.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import version
from itertools import islice
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fastserve_core.errors import DataError
from fastserve_core.tasks import TensorSpec
from fastserve_server import schemas
from fastserve_server.decoding import MAX_DIGITS, parse_count
from fastserve_server.requests import Answers, UnavailableError
from fastserve_server.service import Service
from fastserve_server.tensors import TensorError, flatten, pack, unpack_bytes
from fastserve_server.web import (
    JSON,
    Endpoint,
    await_or_disconnect,
    check_num_inputs,
    decode,
    models_of,
    read_body,
    reply,
    service_of,
)

HEADER = "Inference-Header-Content-Length"
VERSION = "1"
"""The only version of a model: another artifact replaces it."""
BINARY_OUTPUT = "binary_data_output"
UNSUPPORTED_PARAMETERS: Mapping[str, tuple[Any, ...]] = {
    "sequence_id": (0, ""),
    "sequence_start": (False,),
    "sequence_end": (False,),
    "priority": (0,),
    "timeout": (None, 0),
}
"""Request parameters of the protocol that are not supported, and their values that have no effect. All other
parameters but ``binary_data_output`` are options of the task."""


async def live(request: Request) -> Response:
    """Report that the process answers."""
    return reply(schemas.Alive(True))


async def ready(request: Request) -> Response:
    """Report whether all models are ready."""
    models = models_of(request)
    if not models.ready:
        raise UnavailableError(models.not_ready_reason())
    return reply(schemas.Ready(True))


async def server_metadata(request: Request) -> Response:
    """Report the server's name, version and extensions."""
    return reply(schemas.ServerMetadata("fastserve", version("fastserve-core"), ["binary_tensor_data"]))


async def model_ready(request: Request) -> Response:
    """Report whether a model is ready."""
    service = _named_service(request)
    if not service.ready:
        raise UnavailableError(service.not_ready_reason())
    return reply(schemas.Ready(True, service.name))


async def model_metadata(request: Request) -> Response:
    """Report a model's inputs and outputs."""
    service = _named_service(request)
    return reply(
        schemas.ModelMetadata(service.name, [VERSION], f"fastserve_{service.artifact.engine}", *_tensors(service))
    )


async def infer(request: Request) -> Response:
    """Answer tensors of texts."""
    _named_service(request)
    content = await read_body(request)
    service = _named_service(request)  # after the body: the model may have been replaced while it arrived
    body, blobs = _split(request, content)
    inputs = _inputs(service, body, blobs)
    outputs = _requested_outputs(service, body)
    options = _task_options(body)
    answers = await await_or_disconnect(request, models_of(request).predict(service, inputs, options))
    return _respond(service, body, outputs, answers)


def _named_service(request: Request) -> Service:
    service = service_of(request, request.path_params["model"])
    version = request.path_params.get("version", VERSION)
    if version != VERSION:
        raise HTTPException(404, f"the model '{service.name}' has no version '{version}'; its only one is {VERSION}")
    return service


def _tensors(service: Service) -> tuple[list[schemas.TensorMetadata], list[schemas.TensorMetadata]]:
    """Metadata of the model's inputs and of its outputs."""
    inputs, outputs = service.task.input_tensors(), service.task.output_tensors()
    return [_metadata(tensor) for tensor in inputs], [_metadata(tensor) for tensor in outputs]


def _metadata(tensor: TensorSpec) -> schemas.TensorMetadata:
    content = {"content_type": JSON, "schema": dict(tensor.json_schema)} if tensor.json_schema is not None else {}
    return schemas.TensorMetadata(tensor.name, tensor.datatype, list(tensor.shape), content)


# -- the request -------------------------------------------------------------------------------------


def _split(request: Request, body: bytes) -> tuple[schemas.InferRequest, memoryview]:
    """Split a body into its JSON and the binary tensors after it."""
    header = request.headers.get(HEADER)
    if header is None:
        return decode(schemas.InferRequest, body), memoryview(b"")
    length = parse_count(header)
    if length is None or length > len(body):
        raise HTTPException(400, f"{HEADER} is {header[:MAX_DIGITS]!r}, but the body has {len(body)} bytes")
    view = memoryview(body)
    return decode(schemas.InferRequest, view[:length]), view[length:]


def _task_options(body: schemas.InferRequest) -> dict[str, Any]:
    """Return the parameters of a request that are options of the task."""
    for name, neutral in UNSUPPORTED_PARAMETERS.items():
        if name in body.parameters and body.parameters[name] not in neutral:
            raise DataError(f"the parameter '{name}' is not supported")
    protocol = {BINARY_OUTPUT, *UNSUPPORTED_PARAMETERS}
    return {name: value for name, value in body.parameters.items() if name not in protocol}


def _inputs(service: Service, body: schemas.InferRequest, blobs: memoryview) -> list[dict[str, str]]:
    """Convert the request's tensors to rows of texts."""
    known = [tensor.name for tensor in _tensors(service)[0]]
    columns: dict[str, list[str]] = {}
    for tensor in body.inputs:
        size = tensor.parameters.binary_data_size
        if size is not None and (not isinstance(size, int) or not 0 <= size <= len(blobs)):
            raise HTTPException(400, f"the binary_data_size of the input '{tensor.name}' does not match the body")
        if tensor.name not in known:
            raise DataError(f"the model has no input '{tensor.name}'; it has {', '.join(known)}")
        if tensor.name in columns:
            raise DataError(f"the input '{tensor.name}' was given twice")
        check_num_inputs(service, math.prod(tensor.shape))
        columns[tensor.name] = _texts(tensor, None if size is None else blobs[:size])
        blobs = blobs[size or 0 :]
    if len(blobs):
        raise HTTPException(400, f"the body is {len(blobs)} bytes longer than its tensors")
    for wanted in service.task.input_tensors():
        if wanted.required and wanted.name not in columns:
            raise DataError(f"the input '{wanted.name}' is missing")
    if len({len(column) for column in columns.values()}) != 1:
        raise DataError(f"the inputs {', '.join(known)} must have the same number of elements")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _texts(tensor: schemas.InferInput, blob: memoryview | None) -> list[str]:
    """Convert the elements of a BYTES tensor to texts, but at most one more than its shape has."""
    if tensor.datatype != "BYTES":
        raise DataError(f"the input '{tensor.name}' must be BYTES, not {tensor.datatype}")
    if blob is not None and tensor.data is not None:
        raise DataError(f"the input '{tensor.name}' has data in the JSON and a binary_data_size")
    count = math.prod(tensor.shape)
    if any(size < 0 for size in tensor.shape):
        raise DataError(f"the input '{tensor.name}' has the shape {tensor.shape}")
    try:
        elements = flatten(tensor.data or ()) if blob is None else map(bytes.decode, unpack_bytes(blob, count + 1))
        values = list(islice(elements, count + 1))
    except TensorError as error:
        raise HTTPException(400, str(error)) from error
    except UnicodeDecodeError as error:
        raise DataError(f"the input '{tensor.name}' is not UTF-8: {error}") from error
    if not all(isinstance(value, str) for value in values):
        raise DataError(f"the input '{tensor.name}' must hold texts")
    if count != len(values):
        number = len(values) if len(values) < count else "more"
        raise DataError(f"the input '{tensor.name}' has {number} elements, but the shape {tensor.shape}")
    return values


def _requested_outputs(service: Service, body: schemas.InferRequest) -> dict[str, bool]:
    """Names of the outputs to send, and for each whether in binary."""
    known = [tensor.name for tensor in _tensors(service)[1]]
    default = body.parameters.get(BINARY_OUTPUT, False)
    if not isinstance(default, bool):
        raise DataError(f"the parameter '{BINARY_OUTPUT}' must be true or false")
    chosen: dict[str, bool] = {}
    for output in body.outputs:
        if output.name not in known:
            raise DataError(f"the model has no output '{output.name}'; it has {', '.join(known)}")
        if output.name in chosen:
            raise DataError(f"the output '{output.name}' was requested twice")
        binary = output.parameters.binary_data
        chosen[output.name] = default if binary is None else binary
    return chosen or dict.fromkeys(known, default)


# -- the response ------------------------------------------------------------------------------------


def _respond(service: Service, body: schemas.InferRequest, requested: Mapping[str, bool], answers: Answers) -> Response:
    blobs = []
    outputs = []
    for name, binary in requested.items():
        shape, datatype, values = _values(service, name, answers)
        if not binary:
            outputs.append(schemas.InferOutput(name, shape, datatype, data=values))
            continue
        blob = pack(datatype, values)
        blobs.append(blob)
        outputs.append(schemas.InferOutput(name, shape, datatype, {"binary_data_size": len(blob)}))
    header = msgspec.json.encode(schemas.InferResponse(service.name, outputs, body.id))
    if not blobs:
        return Response(header, media_type=JSON)
    return Response(b"".join([header, *blobs]), 200, {HEADER: str(len(header))}, "application/octet-stream")


def _values(service: Service, name: str, answers: Answers) -> tuple[list[int], str, list[Any]]:
    """Return shape, datatype and elements of an output."""
    tensor = next(tensor for tensor in service.task.output_tensors() if tensor.name == name)
    values = service.task.tensor_values(name, answers)
    shape = [len(answers) if size == -1 else size for size in tensor.shape[:1]] + list(tensor.shape[1:])
    if -1 in shape:
        known = math.prod(size for size in shape if size != -1)
        shape[shape.index(-1)] = len(values) // known if known else 0
    return shape, tensor.datatype, values


def _model_endpoints(path: str) -> tuple[Endpoint, ...]:
    return (
        Endpoint("GET", path, model_metadata, "The model's tensors", response_type=schemas.ModelMetadata),
        Endpoint("GET", path + "/ready", model_ready, "Whether that model answers", response_type=schemas.Ready),
        Endpoint(
            "POST",
            path + "/infer",
            infer,
            "Answer texts (Open Inference Protocol)",
            schemas.InferRequest,
            schemas.InferResponse,
        ),
    )


ENDPOINTS = (
    Endpoint(
        "GET", "/v2", server_metadata, "The server's name, version and extensions", response_type=schemas.ServerMetadata
    ),
    Endpoint("GET", "/v2/health/live", live, "Whether the process answers", response_type=schemas.Alive),
    Endpoint("GET", "/v2/health/ready", ready, "Whether the model answers", response_type=schemas.Ready),
    *_model_endpoints("/v2/models/{model}"),
    *_model_endpoints("/v2/models/{model}/versions/{version}"),
)
