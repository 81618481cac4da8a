"""The common part of the tasks that read one text, or a pair of texts, with one head: classifiers and regression."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.errors import DataError, OptionError, did_you_mean
from fastserve_core.tasks import Column, MetricSpec, Row, softmax
from fastserve_text.base import TEXT, TextOptions, TextTask, validate_text

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, Any]

TEXT_PAIR = Column(
    "text_pair",
    required=False,
    title="Second text (for models of pairs)",
    usual_names=("sentence2", "hypothesis", "question2"),
)
LABEL_NAMES = (
    "intent", "category", "target", "class", "sentiment", "emotion", "topic", "gold_label",
    "标签", "类别", "分类", "情感",
)  # fmt: skip
"""Usual names of a column with labels."""
FUNCTIONS = ("softmax", "sigmoid", "none")
"""The functions that make scores of logits, as the pipelines of transformers name them."""


@dataclass
class SequenceOptions(TextOptions):
    """The options of these tasks.

    ``metric`` is the score by which models are compared. ``function_to_apply`` makes scores of logits, by default the
    function of the task's loss.
    """

    metric: str = ""
    function_to_apply: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.function_to_apply not in (None, *FUNCTIONS):
            hint = did_you_mean(str(self.function_to_apply), FUNCTIONS)
            raise OptionError(
                f"task.function_to_apply must be one of {', '.join(FUNCTIONS)}, not '{self.function_to_apply}'{hint}"
            )


def check_metric(metric: str, known: Iterable[str]) -> None:
    """Raise ``OptionError`` if a task does not have a metric to compare models by."""
    names = list(known)
    if metric not in names:
        hint = did_you_mean(metric, names)
        raise OptionError(f"task.metric must be one of {', '.join(names)}, not '{metric}'{hint}")


def check_top_k(top_k: int | None) -> None:
    """Raise ``OptionError`` if a number of labels to return is below 1."""
    if top_k is not None and top_k < 1:
        raise OptionError(f"task.top_k must be at least 1, not {top_k}")


class SequenceTask(TextTask):
    """Reads a text or a pair of texts; its options derive from ``SequenceOptions``."""

    text_columns: ClassVar[tuple[Column, ...]] = (TEXT, TEXT_PAIR)
    head: ClassVar[str] = "ForSequenceClassification"
    model_computes_loss: ClassVar[bool] = False
    not_in_rows: ClassVar[frozenset[str]] = frozenset({"max_length", "metric", "top_k", "function_to_apply"})

    @override
    @property
    def main_metric(self) -> str:
        return str(self.options.metric)

    @override
    def check(self, row: Row) -> str | None:
        if fault := validate_text(row):
            return fault
        if row.get("text_pair") is None:
            row.pop("text_pair", None)
            return None
        return validate_text(row, "text_pair")

    @override
    def read_input(self, value: Any) -> Row:
        if isinstance(value, (list, tuple)) and len(value) == 2:
            value = {"text": value[0], "text_pair": value[1]}
        row = super().read_input(value)
        if row.get("text_pair") is not None and (fault := validate_text(row, "text_pair")):
            raise DataError(f"an input cannot be used: {fault}")
        return row

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        name = self.options.metric
        if name not in scores:
            raise DataError(
                f"task.metric={name} is not defined on the validation split, because all of its rows are labelled "
                "alike or none is: give other rows, or choose another metric"
            )
        spec: MetricSpec = self.metrics[name]
        return scores[name] if spec.higher_is_better else -scores[name]


def sigmoid(logits: Matrix) -> Matrix:
    """Return the probabilities of independent labels."""
    import numpy as np

    probabilities: Matrix = np.exp(-np.logaddexp(0, -logits))
    return probabilities


def apply_function(name: str, logits: Matrix) -> Matrix:
    """Return the scores of logits of shape (rows, labels) by one of ``FUNCTIONS``."""
    if name == "none":
        return logits
    return softmax(logits) if name == "softmax" else sigmoid(logits)


def rank_scores(scores: Mapping[str, float], count: int | None) -> dict[str, float]:
    """Return the highest scores in their order, or all in the given order if ``count`` is ``None``."""
    if count is None:
        return dict(scores)
    return dict(sorted(scores.items(), key=lambda score: -score[1])[:count])


def scores_schema(labels: Sequence[str]) -> dict[str, Any]:
    """Return the JSON Schema of scores by label, which ``top_k`` limits to some."""
    properties = {label: {"type": "number"} for label in labels}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def scores_tensor(answers: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[float]:
    """Return the scores of all labels, answer by answer; raises ``DataError`` if ``top_k`` left some out."""
    if any(len(answer["scores"]) < len(labels) for answer in answers):
        raise DataError("top_k changes the shape of the output tensor 'scores': leave it out, or use /predict")
    return [answer["scores"][label] for answer in answers for label in labels]
