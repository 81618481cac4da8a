"""The Open Inference Protocol, version 2, with its binary tensor extension.

https://github.com/kserve/open-inference-protocol and, for binary tensors, Triton's extension_binary_data.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fastserve_core.errors import InvalidData
from fastserve_server import schemas
from fastserve_server.requests import Answers, Unavailable
from fastserve_server.service import Service
from fastserve_server.tensors import BadTensor, flatten, pack_bytes, pack_floats, unpack_bytes
from fastserve_server.web import Endpoint, await_or_disconnect, decode, models_of, read_body, reply, service_of

HEADER = "Inference-Header-Content-Length"
CLASSIFICATION = "text_classification"
TEXT_INPUTS = ("text", "text_pair")
NOT_FOR_THE_TASK = frozenset(
    {"binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout"}
)
"""Request parameters of the protocol itself; the others are the task's options."""


async def live(request: Request) -> Response:
    return reply(schemas.Alive(True))


async def ready(request: Request) -> Response:
    models = models_of(request)
    if not models.ready:
        raise Unavailable(models.not_ready_reason())
    return reply(schemas.Ready(True))


async def server_metadata(request: Request) -> Response:
    return reply(schemas.ServerMetadata("fastserve", version("fastserve-core"), ["binary_tensor_data"]))


async def model_ready(request: Request) -> Response:
    service = _named_service(request)
    if not service.ready:
        raise Unavailable(service.not_ready_reason())
    return reply(schemas.Ready(True, service.name))


async def model_metadata(request: Request) -> Response:
    service = _named_service(request)
    return reply(schemas.ModelMetadata(service.name, ["1"], f"fastserve_{service.artifact.engine}", *_tensors(service)))


async def infer(request: Request) -> Response:
    _named_service(request)
    body = await read_body(request)
    service = _named_service(request)  # after the body: another model may have come meanwhile
    asked, blobs = _split(request, body)
    inputs = _inputs(service, asked, blobs)
    wanted = _wanted(service, asked)
    options = {name: value for name, value in asked.parameters.items() if name not in NOT_FOR_THE_TASK}
    if len(inputs) > service.options.max_inputs:
        raise HTTPException(413, f"{len(inputs)} inputs are more than the {service.options.max_inputs} of one request")
    answers = await await_or_disconnect(request, models_of(request).ask(service, inputs, options))
    return _respond(service, asked, wanted, answers)


def _named_service(request: Request) -> Service:
    return service_of(request, request.path_params["model"])


def _tensors(service: Service) -> tuple[list[schemas.TensorMetadata], list[schemas.TensorMetadata]]:
    """The model's inputs and outputs."""
    columns = {column.name for column in service.task.columns}
    inputs = [schemas.TensorMetadata(name, "BYTES", [-1]) for name in TEXT_INPUTS if name == "text" or name in columns]
    if service.task.name != CLASSIFICATION:
        return inputs, [schemas.TensorMetadata("answer", "BYTES", [-1])]
    scores = schemas.TensorMetadata("scores", "FP32", [-1, len(service.task.labels)])
    return inputs, [schemas.TensorMetadata("label", "BYTES", [-1]), scores]


# -- the request -------------------------------------------------------------------------------------


def _split(request: Request, body: bytes) -> tuple[schemas.InferRequest, memoryview]:
    """The JSON of a request and the binary tensors after it."""
    header = request.headers.get(HEADER)
    if header is None:
        return decode(schemas.InferRequest, body), memoryview(b"")
    if not header.isdecimal() or int(header) > len(body):
        raise HTTPException(400, f"{HEADER} is {header!r}, but the body has {len(body)} bytes")
    view = memoryview(body)
    return decode(schemas.InferRequest, view[: int(header)]), view[int(header) :]


def _inputs(service: Service, asked: schemas.InferRequest, blobs: memoryview) -> list[dict[str, str]]:
    """The request's tensors as rows of texts."""
    known = [one.name for one in _tensors(service)[0]]
    columns: dict[str, list[str]] = {}
    for tensor in asked.inputs:
        size = tensor.parameters.get("binary_data_size")
        if size is not None and (not isinstance(size, int) or not 0 <= size <= len(blobs)):
            raise HTTPException(400, f"the input '{tensor.name}' has a binary_data_size that the body does not have")
        if tensor.name not in known:
            raise InvalidData(f"the model has no input '{tensor.name}'; it has {', '.join(known)}")
        columns[tensor.name] = _texts(tensor, None if size is None else blobs[:size])
        blobs = blobs[size or 0 :]
    if len(blobs):
        raise HTTPException(400, f"the body has {len(blobs)} bytes more than its tensors")
    if "text" not in columns:
        raise InvalidData("the input 'text' is missing")
    if len({len(column) for column in columns.values()}) != 1:
        raise InvalidData("'text' and 'text_pair' must have as many elements as each other")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _texts(tensor: schemas.InferInput, blob: memoryview | None) -> list[str]:
    """A BYTES tensor's elements as text."""
    if tensor.datatype != "BYTES":
        raise InvalidData(f"the input '{tensor.name}' must be BYTES, not {tensor.datatype}")
    try:
        values = list(flatten(tensor.data or ())) if blob is None else [one.decode() for one in unpack_bytes(blob)]
    except BadTensor as error:
        raise HTTPException(400, str(error)) from error
    except UnicodeDecodeError as error:
        raise InvalidData(f"the input '{tensor.name}' is not UTF-8: {error}") from error
    if not all(isinstance(value, str) for value in values):
        raise InvalidData(f"the input '{tensor.name}' must hold texts")
    if any(size < 0 for size in tensor.shape) or math.prod(tensor.shape) != len(values):
        raise InvalidData(f"the input '{tensor.name}' has {len(values)} elements, but the shape {tensor.shape}")
    return values


def _wanted(service: Service, asked: schemas.InferRequest) -> dict[str, bool]:
    """The outputs to send, and whether as binary."""
    known = [one.name for one in _tensors(service)[1]]
    default = asked.parameters.get("binary_data_output") is True
    for output in asked.outputs:
        if output.name not in known:
            raise InvalidData(f"the model has no output '{output.name}'; it has {', '.join(known)}")
    chosen = {output.name: output.parameters.get("binary_data", default) is True for output in asked.outputs}
    return chosen or dict.fromkeys(known, default)


# -- the response ------------------------------------------------------------------------------------


def _respond(service: Service, asked: schemas.InferRequest, wanted: Mapping[str, bool], answers: Answers) -> Response:
    blobs = []
    outputs = []
    for name, binary in wanted.items():
        shape, datatype, values = _values(service, name, answers)
        if not binary:
            outputs.append(schemas.InferOutput(name, shape, datatype, data=values))
            continue
        blob = pack_floats(values) if datatype == "FP32" else pack_bytes(value.encode() for value in values)
        blobs.append(blob)
        outputs.append(schemas.InferOutput(name, shape, datatype, {"binary_data_size": len(blob)}))
    head = msgspec.json.encode(schemas.InferResponse(service.name, outputs, asked.id))
    if not blobs:
        return Response(head, media_type="application/json")
    return Response(b"".join([head, *blobs]), 200, {HEADER: str(len(head))}, "application/octet-stream")


def _values(service: Service, name: str, answers: Answers) -> tuple[list[int], str, list[Any]]:
    """Shape, datatype and elements of an output."""
    if name == "scores":
        labels = service.task.labels
        return [len(answers), len(labels)], "FP32", [one["scores"][label] for one in answers for label in labels]
    if name == "label":
        return [len(answers)], "BYTES", [one["label"] for one in answers]
    return [len(answers)], "BYTES", [msgspec.json.encode(one).decode() for one in answers]


ENDPOINTS = (
    Endpoint("GET", "/v2", server_metadata, "What this server is", response_type=schemas.ServerMetadata),
    Endpoint("GET", "/v2/health/live", live, "Whether the process answers", response_type=schemas.Alive),
    Endpoint("GET", "/v2/health/ready", ready, "Whether the model answers", response_type=schemas.Ready),
    Endpoint("GET", "/v2/models/{model}", model_metadata, "The model's tensors", response_type=schemas.ModelMetadata),
    Endpoint("GET", "/v2/models/{model}/ready", model_ready, "Whether that model answers", response_type=schemas.Ready),
    Endpoint(
        "POST",
        "/v2/models/{model}/infer",
        infer,
        "Answer texts (Open Inference Protocol)",
        schemas.InferRequest,
        schemas.InferResponse,
    ),
)
