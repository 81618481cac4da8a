"""Any number of labels for a text. Found by its entry point; torch is imported only where tensors are at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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
)
from fastserve_text import TextTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastserve_core.tasks import Route


@dataclass
class Options:
    """``max_length`` is in tokens; labels with a score of at least ``threshold`` are given."""

    max_length: int = 128
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise OptionError(f"task.max_length must be at least 4 tokens, not {self.max_length}")
        if not 0 < self.threshold < 1:
            raise OptionError(f"task.threshold must lie between 0 and 1, not {self.threshold}")


class MultiLabel(TextTask):
    """Labels that do not exclude each other: a logit, a sigmoid and a binary cross-entropy for each."""

    name: ClassVar[str] = "multilabel"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (Column("text", title="Text"), Column("labels", is_label=True))
    head: ClassVar[str] = "ForSequenceClassification"
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "f1_micro": MetricSpec(unit="%"),
        "subset_accuracy": MetricSpec(unit="%", is_share_of_rows=True),
    }
    model_computes_loss: ClassVar[bool] = False
    loss_options: ClassVar[frozenset[str]] = frozenset({"label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget("logits", "binary"),)
    uncompressed_modules: ClassVar[tuple[str, ...]] = ("classifier",)  # small, and thresholds depend on its scores
    answer_view: ClassVar[AnswerView] = AnswerView(headline="labels", scores="scores")

    # -- rows ----------------------------------------------------------------------------------------

    def check(self, row: Row) -> str | None:
        if fault := super().check(row):
            return fault
        given = row.get("labels") or []
        labels = given.split("|") if isinstance(given, str) else given
        if not isinstance(labels, (list, tuple)):
            return f"'labels' is {type(given).__name__}, neither a list nor text"
        row["labels"] = sorted({str(label).strip() for label in labels} - {""})
        return None

    def collect_labels(self, rows: Sequence[Row]) -> list[str]:
        found = sorted({label for row in rows for label in row["labels"]})
        if not found:
            raise DataError(f"none of the {len(rows)} training rows has a label")
        return found

    def stratify_key(self, row: Row) -> str:
        return "|".join(row["labels"][:1])

    # -- the model and its batches -------------------------------------------------------------------

    def build(self, folder: Path) -> nn.Module:
        model = super().build(folder)
        model.config.problem_type = "multi_label_classification"  # type: ignore[union-attr]
        return model

    def encoder(self, folder: Path) -> Encoder:
        return self.text_encoder(folder, self._target)

    def _target(self, row: Row) -> list[int] | None:
        if "labels" not in row:
            return None
        if row["labels"] is None:
            return [UNLABELLED] * len(self.labels)
        return [int(label in row["labels"]) for label in self.labels]

    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        import numpy as np

        arrays = super().collate(batch)
        if targets:
            arrays["labels"] = np.asarray([list(example.target) for example in batch], dtype=np.float32)
        return arrays

    # -- learning ------------------------------------------------------------------------------------

    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        from torch.nn import functional

        labels, logits, smoothing = batch["labels"], outputs["logits"].float(), options.label_smoothing
        known = labels >= 0
        wanted = labels[known] * (1 - smoothing) + smoothing / 2
        total = functional.binary_cross_entropy_with_logits(logits[known], wanted, reduction="sum")
        return BatchLoss(total, self.counted_positions(batch).sum())

    # -- answers -------------------------------------------------------------------------------------

    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        answers = []
        for row in _sigmoid(outputs["logits"]).tolist():
            scores = dict(zip(self.labels, row, strict=True))
            found = [label for label, score in scores.items() if score >= self.options.threshold]
            answers.append({"labels": found, "scores": scores})
        return answers

    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        """Return for each row its true positives, false positives and false negatives."""
        import numpy as np

        found = _sigmoid(outputs["logits"]) >= self.options.threshold
        truth = np.asarray([list(example.target) for example in batch]) > 0
        counts = [(found & truth).sum(-1), (found & ~truth).sum(-1), (~found & truth).sum(-1)]
        return np.stack(counts, axis=-1).tolist()  # type: ignore[no-any-return]

    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        right, wrong, missed = (sum(column) for column in zip(*statistics, strict=True))
        exact = sum(not row[1] and not row[2] for row in statistics)
        f1 = 2 * right / (2 * right + wrong + missed) if right or wrong or missed else 1.0
        return {"f1_micro": f1, "subset_accuracy": exact / len(statistics)}

    def objective(self, scores: Mapping[str, float]) -> float:
        return scores["f1_micro"]

    def answer_schema(self) -> dict[str, Any]:
        scores = object_schema(**{label: {"type": "number"} for label in self.labels})
        return object_schema(labels={"type": "array", "items": {"enum": self.labels}}, scores=scores)

    def format_answer(self, answer: Mapping[str, Any]) -> str:
        return ", ".join(f"{label} {answer['scores'][label]:.3f}" for label in answer["labels"]) or "no label"

    # -- serving -------------------------------------------------------------------------------------

    def routes(self, folder: Path) -> Sequence[Route]:
        from fastserve_multilabel.routes import Tag

        return [Tag()]

    def output_tensors(self) -> list[TensorSpec]:
        return [TensorSpec("labels"), TensorSpec("scores", "FP32", (-1, len(self.labels)))]

    def tensor_values(self, name: str, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        if name == "scores":
            return [answer["scores"][label] for answer in answers for label in self.labels]
        return ["|".join(answer["labels"]) for answer in answers]


def _sigmoid(logits: Any) -> Any:
    import numpy as np

    return 1 / (1 + np.exp(-logits.astype(np.float64)))
