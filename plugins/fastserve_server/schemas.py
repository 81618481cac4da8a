"""What requests and responses look like; decoding with these types is the validation."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

Input = str | list[str] | dict[str, str | list[str] | None]
"""A text, a pair of texts or a list of words, or fields by name (``text``, ``text_pair``, ``tokens``)."""

OptionValue = bool | int | float | str | None


class PredictRequest(Struct, forbid_unknown_fields=True):
    inputs: Annotated[list[Input], Meta(description="Texts, or objects with the task's fields")]
    options: Annotated[
        dict[str, OptionValue], Meta(description="For generative tasks: max_new_tokens, temperature")
    ] = {}
    model: Annotated[str | None, Meta(description="The model to ask; the first where it is left out")] = None


class PredictResponse(Struct):
    predictions: Annotated[list[dict[str, Any]], Meta(description="One answer for each input, in their order")]
    model: str


class Problem(Struct):
    type: str
    message: str


class ErrorResponse(Struct):
    error: Problem


class ModelCard(Struct):
    id: str
    created: int
    object: str = "model"
    owned_by: str = "fastserve"


class ModelList(Struct):
    data: list[ModelCard]
    object: str = "list"


class LineageResponse(Struct):
    model: str
    digest: str
    task: str
    labels: list[str]
    runtime: dict[str, Any]
    lineage: list[dict[str, Any]]
    measures: dict[str, Any]
    files: dict[str, str]


class CandidateResponse(Struct):
    """A candidate beside a model; ``answers`` counts those compared, and those that could not be."""

    model: str
    digest: str
    mode: str
    share: float
    asked: bool
    reason: str
    answers: dict[str, int]
    disagreement: float | None
    model_ms: float | None
    candidate_ms: float | None


class ServerMetadata(Struct):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Struct):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Struct):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Alive(Struct):
    live: bool


class Ready(Struct):
    ready: bool
    name: str = ""


class InferInput(Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class RequestedOutput(Struct):
    name: str
    parameters: dict[str, Any] = {}


class InferRequest(Struct):
    inputs: list[InferInput]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[RequestedOutput] = []


class InferOutput(Struct, omit_defaults=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class InferResponse(Struct, omit_defaults=True):
    model_name: str
    outputs: list[InferOutput]
    id: str = ""


class InferError(Struct):
    """The protocol wants ``error`` to be text, and its clients fail on anything else."""

    error: str
    type: str
