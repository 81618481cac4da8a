"""The types of a task's declarations: columns, metrics, tensors, outputs and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from fastserve_core.errors import ModelError

DEFAULT_OUTPUTS = ("*logits",)
"""Patterns of the outputs of models of transformers with a head."""
Comparison = Literal["categorical", "binary", "regression", "span", "vector"]


@dataclass(frozen=True)
class Column:
    """A column that a task reads, under the name the task knows it by.

    ``is_label`` marks a column that is predicted: a request has no such column. ``title`` heads its field on a form.
    A column that the data does not have under this name may have one of the ``usual_names`` instead. For a column that
    ``takes_several`` the user may name several; the row's value is then a mapping of their values by name.
    """

    name: str
    required: bool = True
    is_label: bool = False
    title: str = ""
    usual_names: tuple[str, ...] = ()
    takes_several: bool = False


@dataclass(frozen=True)
class MetricSpec:
    """One of a task's scores: its direction, its unit, and whether it is a share of the rows.

    ``unit`` is ``%`` for a fraction between 0 and 1, which is shown in per cent. The standard error of a score that is
    the share of ``n`` rows is sqrt(p (1 - p) / n).
    """

    higher_is_better: bool = True
    unit: Literal["", "%"] = ""
    is_share_of_rows: bool = False


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of the Open Inference Protocol; -1 at the start of its shape is the batch, one elsewhere any size.

    ``json_schema`` is set if the elements are JSON: each is valid against it.
    """

    name: str
    datatype: Literal["BYTES", "FP32", "INT64"] = "BYTES"
    shape: tuple[int, ...] = (-1,)
    required: bool = True
    json_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DistillationTarget:
    """An output of the model that a student is compared with its teacher on.

    ``comparison`` is the distribution that the output holds: ``categorical`` logits over the last axis, ``binary``
    logits of independent labels, ``regression`` values, ``span`` logits over the positions of the input, or a
    ``vector``, of which the direction counts. Values of ``regression`` are compared in this ``unit``.
    """

    output: str = "logits"
    comparison: Comparison = "categorical"
    unit: float = 1.0


@dataclass(frozen=True)
class LossOptions:
    """The trainer's options that a task's loss reads; ``class_weights`` has one weight a label."""

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None


class BatchLoss(NamedTuple):
    """A loss summed over all items of a batch that count, and their number (or their weight).

    A mean over a batch that was cut in parts is not the mean of the parts' means where a part has fewer tokens, or
    lighter classes, than another. So a trainer adds up both over all parts and ranks before it divides.
    """

    total: Any
    denominator: Any


@dataclass(frozen=True)
class AnswerView:
    """The fields of an answer that a page shows first; ``a.b`` is the field ``b`` of the field ``a``.

    ``headline`` is a text, a number, or a list of texts or of objects with ``label``. ``scores`` are drawn as bars:
    numbers by name, or a list of objects with ``score`` and the field ``score_name``. ``spans`` are parts of the input
    that are marked in it: a list of objects with ``start`` and ``end`` in characters, or ``.`` if the answer itself is
    one.
    ``span_name`` is the field of a span that is shown beside it, and ``span_input`` the field of the input that has the
    characters, by default the first. ``triples`` is a list of subject, predicate and object, drawn as a graph.
    ``hits`` is a list of passages that were found: objects with ``id``, ``text`` and ``score``.
    ``vector`` is a list of numbers: each line of the first field is an input, and the cosines of all pairs are shown.
    """

    headline: str = ""
    scores: str = ""
    score_name: str = "name"
    spans: str = ""
    span_name: str = ""
    span_input: str = ""
    triples: str = ""
    vector: str = ""
    hits: str = ""


@dataclass(frozen=True)
class Triple:
    """A fact of a text: its subject, predicate and object, and the probability of the predicate.

    ``subject_type`` and ``object_type`` are the kinds of the entities, if the model names them.
    """

    subject: str
    predicate: str
    object: str
    score: float = 1.0
    subject_type: str = ""
    object_type: str = ""


@dataclass(frozen=True)
class Proposal:
    """The settings that a task proposes for a first run with some rows.

    Attributes:
        options: Its options by name.
        model: A choice of the group ``model``; empty for the default.
        notes: The evidence, a line each.
        training: Options of the trainer that differ from those of a fine-tuning, such as ``epochs`` and ``lr``.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    notes: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Doubt:
    """A label that a model contradicts.

    Attributes:
        label: The row's label.
        answer: The model's answer.
        score: The probability of the answer.
    """

    label: str
    answer: str
    score: float


@dataclass(frozen=True)
class Sample:
    """A row of which reports show the answers of several models.

    Attributes:
        input: The input as readers see it.
        expected: The answer of the row.
        value: The input as ``Task.read_input`` takes it.
    """

    input: str
    expected: str
    value: Any


def select_outputs(outputs: Mapping[str, Any], patterns: Sequence[str]) -> dict[str, Any]:
    """Return the outputs of a model that match a pattern, by name.

    Args:
        outputs: The outputs of a model of transformers, tensors or ``None``, by name.
        patterns: Patterns such as ``*logits`` or ``last_hidden_state``.

    Raises:
        ModelError: No output matches, or one that matches is not a tensor.
    """
    found = {
        name: value
        for name, value in outputs.items()
        if value is not None and any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    if not found:
        raise ModelError(f"the model has no output {' or '.join(patterns)}; its outputs are {', '.join(outputs)}")
    for name, value in found.items():
        if not hasattr(value, "shape"):
            raise ModelError(f"the model's output {name} is not a tensor and cannot be served")
    return found


def object_schema(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of an object that has all of these properties."""
    return {"type": "object", "properties": properties, "required": list(properties)}
