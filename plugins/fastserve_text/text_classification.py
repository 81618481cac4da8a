"""One label for a text, or for a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import (
    UNLABELLED,
    AnswerView,
    Arrays,
    BatchLoss,
    Column,
    DistillationTarget,
    Encoded,
    Encoder,
    LossOptions,
    MetricSpec,
    Row,
    TensorSpec,
    object_schema,
    read_label,
    softmax,
)
from fastserve_text.base import TEXT, TextTask, sorted_labels, validate_text
from fastserve_text.losses import cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

LABEL_NAMES = (
    "labels", "intent", "category", "target", "class", "sentiment", "emotion", "topic", "gold_label",
    "标签", "类别", "分类", "情感",
)  # fmt: skip
"""Usual names of the column with the label."""


@dataclass
class Options:
    """``max_length`` is in tokens; longer texts are cut."""

    max_length: int = 128

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise OptionError(f"task.max_length must be at least 4 tokens, not {self.max_length}")


class TextClassification(TextTask):
    """Assigns one of several labels to a text or a pair of texts."""

    name: ClassVar[str] = "text_classification"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        TEXT,
        Column(
            "text_pair",
            required=False,
            title="Second text (for models of pairs)",
            usual_names=("sentence2", "hypothesis", "question2"),
        ),
        Column("label", is_label=True, usual_names=LABEL_NAMES),
    )
    head: ClassVar[str] = "ForSequenceClassification"
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "accuracy": MetricSpec(unit="%", is_share_of_rows=True),
        "macro_f1": MetricSpec(unit="%"),
    }
    model_computes_loss: ClassVar[bool] = False
    loss_options: ClassVar[frozenset[str]] = frozenset({"class_weights", "label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(),)
    answer_view: ClassVar[AnswerView] = AnswerView(headline="label", scores="scores")

    @override
    def check(self, row: Row) -> str | None:
        if fault := validate_text(row):
            return fault
        if row.get("text_pair") is None:
            row.pop("text_pair", None)
        elif fault := validate_text(row, "text_pair"):
            return fault
        try:
            row["label"] = read_label(row.get("label"))
        except ValueError as error:
            return f"'label' {error}"
        return None

    @override
    def collect_labels(self, rows: Sequence[Row]) -> list[str]:
        counts = Counter(row["label"] for row in rows)
        if len(counts) < 2:
            raise DataError(f"all {len(rows)} training rows have the label '{next(iter(counts))}': two are needed")
        if len(counts) > len(rows) / 2 and len(rows) > 20:
            raise DataError(
                f"{len(counts)} different labels in {len(rows)} training rows: is data.columns.label the right column?"
            )
        return sorted_labels(set(counts))

    @override
    def stratify_key(self, row: Row) -> str:
        return str(row["label"])

    @override
    def read_input(self, value: Any) -> Row:
        if isinstance(value, (list, tuple)) and len(value) == 2:
            value = {"text": value[0], "text_pair": value[1]}
        row = super().read_input(value)
        if row.get("text_pair") is not None and (fault := validate_text(row, "text_pair")):
            raise DataError(f"an input cannot be used: {fault}")
        return row

    @override
    def encoder(self, folder: Path) -> Encoder:
        numbers = {label: number for number, label in enumerate(self.labels)}

        def target_of(row: Row) -> int | None:
            if "label" not in row:
                return None
            return UNLABELLED if row["label"] is None else numbers.get(row["label"])

        return self.text_encoder(folder, target_of)

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        return cross_entropy(outputs["logits"], batch["labels"], options)

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        answers = []
        for row in softmax(outputs["logits"]).tolist():
            scores = dict(zip(self.labels, row, strict=True))
            best = max(scores, key=scores.__getitem__)
            answers.append({"label": best, "score": scores[best], "scores": scores})
        return answers

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        guesses = outputs["logits"].argmax(axis=-1).tolist()
        return [(guess, one.target) for guess, one in zip(guesses, batch, strict=True)]

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        from sklearn.metrics import f1_score

        guesses, truth = zip(*statistics, strict=True)
        right = sum(guess == target for guess, target in statistics)
        return {
            "accuracy": right / len(statistics),
            "macro_f1": float(f1_score(truth, guesses, average="macro", zero_division=0)),
        }

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return scores["accuracy"]

    @override
    def answer_schema(self) -> dict[str, Any]:
        number = {"type": "number"}
        scores = object_schema(**dict.fromkeys(self.labels, number))
        return object_schema(label={"enum": self.labels}, score=number, scores=scores)

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        return f"{answer['label']}\t{answer['score']:.3f}"

    @override
    def output_tensors(self) -> list[TensorSpec]:
        return [TensorSpec("label"), TensorSpec("scores", "FP32", (-1, len(self.labels)))]

    @override
    def tensor_values(self, name: str, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        if name == "scores":
            return [answer["scores"][label] for answer in answers for label in self.labels]
        return [answer["label"] for answer in answers]
