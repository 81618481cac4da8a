"""Types of requests and responses; decoding a request with its type validates it."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

Input = str | list[str] | dict[str, str | int | list[str | int | dict[str, Any]] | None]
"""A text, a pair of texts or a list of words, or fields by name: texts, numbers, words, characters (``head``) or
messages."""

MAX_DIMENSIONS = 8
"""Maximum number of dimensions of a tensor."""
OptionValue = bool | int | float | str | dict[str, Any] | None


class PredictRequest(Struct, forbid_unknown_fields=True):
    """Body of ``/predict``."""

    inputs: Annotated[list[Input], Meta(description="Texts, or objects with the task's fields")]
    parameters: Annotated[
        dict[str, OptionValue], Meta(description="Parameters of the task for these inputs, such as top_k")
    ] = {}
    options: Annotated[dict[str, OptionValue], Meta(description="Further parameters")] = {}
    model: Annotated[str | None, Meta(description="Name of the model; the first one by default")] = None


class PredictResponse(Struct):
    """Answers of ``/predict``."""

    predictions: Annotated[list[dict[str, Any]], Meta(description="One answer for each input, in their order")]
    model: str


class Problem(Struct):
    """Type and message of an error."""

    type: str
    message: str


class ErrorResponse(Struct):
    """Body of an error."""

    error: Problem


class ModelCard(Struct):
    """A model in OpenAI's list."""

    id: str
    created: int
    object: str = "model"
    owned_by: str = "fastserve"


class ModelList(Struct):
    """Models in OpenAI's format."""

    data: list[ModelCard]
    object: str = "list"


class LineageResponse(Struct):
    """How a model was made: its stages, measures and files."""

    model: str
    digest: str
    task: str
    labels: list[str]
    runtime: dict[str, Any]
    lineage: list[dict[str, Any]]
    measures: dict[str, Any]
    files: dict[str, str]


class CandidateResponse(Struct):
    """Comparison of a candidate with the model; ``answers`` counts its answers by result."""

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
    """The server's name, version and protocol extensions."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Struct, omit_defaults=True):
    """Name, datatype and shape of a tensor; -1 is any size.

    The parameters of a tensor of JSON are its ``content_type`` and the JSON ``schema`` of its elements.
    """

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}


class ModelMetadata(Struct):
    """A model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Alive(Struct):
    """Whether the process answers."""

    live: bool


class Ready(Struct):
    """Whether the models, or the named model, are ready."""

    ready: bool
    name: str = ""


class InputParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of an input tensor: the number of its bytes, if its data is in the binary part of the body."""

    binary_data_size: Any = None


class InferInput(Struct, forbid_unknown_fields=True):
    """Input tensor; its data may be in the binary part of the body."""

    name: str
    shape: Annotated[list[int], Meta(max_length=MAX_DIMENSIONS)]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of an output: whether its data is sent in the binary part of the body."""

    binary_data: bool | None = None


class RequestedOutput(Struct, forbid_unknown_fields=True):
    """Output that the client selects."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferRequest(Struct, forbid_unknown_fields=True):
    """Body of the Open Inference Protocol."""

    inputs: list[InferInput]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[RequestedOutput] = []


class InferOutput(Struct, omit_defaults=True):
    """Output tensor; its data may be in the binary part of the body."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class InferResponse(Struct, omit_defaults=True):
    """Answer of the Open Inference Protocol."""

    model_name: str
    outputs: list[InferOutput]
    id: str = ""


class InferError(Struct):
    """Error of the Open Inference Protocol, whose clients require ``error`` to be text."""

    error: str
    type: str
