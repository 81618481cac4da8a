"""The part of a task behind the model: scores, answers, and what servers need of them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fastserve_core.errors import PlanError
from fastserve_core.tasks.answers import without_scores
from fastserve_core.tasks.declarations import (
    DEFAULT_OUTPUTS,
    AnswerView,
    Column,
    Doubt,
    MetricSpec,
    Sample,
    TensorSpec,
    Triple,
)
from fastserve_core.tasks.encoded import Arrays, Encoded, Row, RunSplit

if TYPE_CHECKING:
    from fastserve_core.tasks.generation import TextCodec
    from fastserve_core.tasks.routes import Route


class AnsweringTask(ABC):
    """The scores and the answers of a task; the base class of ``Task``."""

    name: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]]
    metrics: ClassVar[Mapping[str, MetricSpec]]
    """The scores by name; the first one that a model has stands for all of them in reports."""
    is_generative: ClassVar[bool] = False
    """Answers come from ``Engine.generate`` rather than from one pass."""
    predicts_in_batches: ClassVar[bool] = False
    """A generative task whose answers to ``/predict`` need ``Engine.generate``, as those of beams do; a server that
    streams texts token by token has an engine for each then."""
    outputs: ClassVar[tuple[str, ...]] = DEFAULT_OUTPUTS
    """Patterns of names of the model's outputs that ``decode`` and ``batch_statistics`` read; engines omit others."""
    is_calibrated: ClassVar[bool] = False
    """``calibrate`` chooses what answers need besides the outputs of a trained or compressed model."""
    answer_view: ClassVar[AnswerView] = AnswerView()
    has_triples: ClassVar[bool] = False
    """Answers have facts, which ``triples`` returns, for graphs."""

    @property
    def main_metric(self) -> str:
        """The name of the metric that stands for all in reports; by default the first one."""
        return next(iter(self.metrics), "")

    @property
    def request_columns(self) -> tuple[Column, ...]:
        """The fields of a request, for forms and tensors: the columns that are not labels."""
        return tuple(column for column in self.columns if not column.is_label)

    # -- answers -------------------------------------------------------------------------------------

    def calibrate(self, run: RunSplit) -> Arrays:
        """Return arrays that ``decode`` and ``batch_statistics`` find in ``calibration``, such as thresholds.

        They are chosen for each trained and each compressed model, and kept in its folder.

        Args:
            run: Runs the model on the rows of a split, ``train`` or ``validation``.
        """
        return {}

    @abstractmethod
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        """Return the answers to a batch, as the caller of predict sees them.

        Args:
            outputs: The model's ``outputs``; one row for each of the inputs' ``windows``.
            batch: The inputs.
        """

    @abstractmethod
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        """Return the statistics that ``score`` needs of each row of a labelled batch."""

    def find_doubts(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Doubt | None]:
        """Return for each row of a labelled batch whether the model contradicts its label; ``None`` if it does not.

        Reports list the rows that a model doubts most: their labels may be wrong.
        """
        return [None] * len(batch)

    def list_samples(self, rows: Sequence[Row]) -> list[Sample]:
        """Return labelled rows as samples for a report, if answers are read rather than counted; none by default."""
        return []

    @abstractmethod
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        """Return the task's metrics over a whole split."""

    @abstractmethod
    def objective(self, scores: Mapping[str, float]) -> float:
        """Return the one number that choices are made by; higher is better."""

    def answer_schema(self) -> dict[str, Any]:
        """Return the JSON Schema (draft 2020-12) of an answer, for the description of a server's API."""
        return {"type": "object"}

    def format_answer(self, answer: Mapping[str, Any]) -> str:
        """Return an answer as a line for a terminal."""
        return str(answer.get("text", dict(answer)))

    def triples(self, answer: Mapping[str, Any]) -> Sequence[Triple]:
        """Return the facts of an answer, for graphs; none by default."""
        return ()

    def answer_columns(self, answer: Mapping[str, Any]) -> Row:
        """Return an answer as columns of a table: numbers and texts as they are, anything else as JSON."""
        plain = (str, int, float, bool, type(None))
        return {
            name: value if isinstance(value, plain) else json.dumps(value, ensure_ascii=False)
            for name, value in answer.items()
        }

    def agrees(self, answer: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Return whether the answers of two models to one input are the same; by default without their scores."""
        return bool(without_scores(answer) == without_scores(other))

    # -- serving -------------------------------------------------------------------------------------

    def warmup_inputs(self) -> list[Any]:
        """Return inputs of a short and of a long request, answered before the first caller comes."""
        texts = ("A first sentence.", "A much longer text, so that no shape is new to the engine. " * 8)
        names = [column.name for column in self.request_columns if column.required]
        return [dict.fromkeys(names, text) for text in (texts[:1] if self.is_generative else texts)]

    def input_tensors(self) -> list[TensorSpec]:
        """Return the tensors of an inference request: one of BYTES for each field of a request."""
        return [TensorSpec(column.name, required=column.required) for column in self.request_columns]

    def output_tensors(self) -> list[TensorSpec]:
        """Return the tensors of an inference response; by default one with each answer as JSON."""
        return [TensorSpec("answer", json_schema=self.answer_schema())]

    def tensor_values(self, name: str, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Return the elements of one output tensor, row by row."""
        return [json.dumps(answer, ensure_ascii=False, separators=(",", ":")) for answer in answers]

    def routes(self, folder: Path) -> Sequence[Route]:
        """Return the HTTP routes that a server of a model adds for it.

        Args:
            folder: The folder of the model, in which a route may find files of the task, such as an index.
        """
        return ()

    def writer(self, folder: Path) -> TextCodec:
        """Return how texts are written token by token; raises ``PlanError`` if the task is not generative."""
        raise PlanError(f"the task {self.name} does not write texts")
