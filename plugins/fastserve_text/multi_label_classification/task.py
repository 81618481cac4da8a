"""The task: labels that do not exclude each other, each with a threshold that is chosen on validation rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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
    RunSplit,
    TensorSpec,
    object_schema,
    read_labels,
)
from fastserve_text.base import sorted_labels
from fastserve_text.confidence import expected_calibration_error, fit_temperature, smoothing_of
from fastserve_text.multi_label_classification import metrics
from fastserve_text.multi_label_classification.thresholds import DEFAULT_THRESHOLD, choose_thresholds
from fastserve_text.sequence_task import (
    LABEL_NAMES,
    SequenceOptions,
    SequenceTask,
    apply_function,
    check_metric,
    check_top_k,
    rank_scores,
    scores_schema,
    scores_tensor,
    sigmoid,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    Matrix = np.ndarray[Any, Any]

TEMPERATURE, THRESHOLDS = "temperature", "thresholds"


@dataclass
class Options(SequenceOptions):
    """``max_length`` is in tokens; longer texts are cut. ``metric`` is the score by which models are compared.

    ``separator`` stands between labels in one text. A text gets the labels with a score of at least ``threshold``, by
    default each label's own. An answer has the scores of ``top_k`` labels, by default of all; ``function_to_apply``
    makes them of logits.
    """

    metric: str = "micro_f1"
    separator: str = "|"
    threshold: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_metric(self.metric, (*metrics.DECISIONS, *metrics.RANKINGS))
        check_top_k(self.top_k)
        if not self.separator.strip():
            raise OptionError("task.separator must not be blank: it stands between labels in one text")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise OptionError(f"task.threshold must lie between 0 and 1, not {self.threshold}")


class MultiLabelClassification(SequenceTask):
    """Assigns any number of labels to a text or a pair of texts."""

    name: ClassVar[str] = "multi_label_classification"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        *SequenceTask.text_columns,
        Column(
            "labels",
            is_label=True,
            usual_names=("label", "tags", "topics", "categories", "genres", "emotions", *LABEL_NAMES),
            takes_several=True,
        ),
    )
    metrics: ClassVar[Mapping[str, MetricSpec]] = metrics.ALL
    loss_options: ClassVar[frozenset[str]] = frozenset({"class_weights", "label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget("logits", "binary"),)
    is_calibrated: ClassVar[bool] = True
    answer_view: ClassVar[AnswerView] = AnswerView(headline="labels", scores="scores")
    not_in_rows: ClassVar[frozenset[str]] = SequenceTask.not_in_rows | {"threshold"}
    request_parameters: ClassVar[Mapping[str, str]] = {
        name: name for name in ("top_k", "function_to_apply", "threshold")
    }

    # -- rows ----------------------------------------------------------------------------------------

    @override
    def check(self, row: Row) -> str | None:
        if fault := super().check(row):
            return fault
        try:
            row["labels"] = read_labels(row.get("labels"), self.options.separator)
        except ValueError as error:
            return f"'labels' {error}"
        return None

    @override
    def why_unlikely(self, rows: Sequence[Row]) -> str | None:
        return None if any(len(row["labels"]) > 1 for row in rows) else "no row has several labels"

    @override
    def collect_labels(self, rows: Sequence[Row]) -> list[str]:
        found = {label for row in rows for label in row["labels"]}
        if not found:
            raise DataError(f"none of the {len(rows)} training rows has a label")
        if len(found) > len(rows) / 2 and len(rows) > 20:
            raise DataError(
                f"{len(found)} different labels in {len(rows)} training rows: is data.columns.labels the right column, "
                f"and '{self.options.separator}' (task.separator) between labels?"
            )
        return sorted_labels(found)

    @override
    def stratify_key(self, row: Row) -> str:
        return json.dumps(row["labels"][:1])

    # -- the model and its batches -------------------------------------------------------------------

    @override
    def build(self, folder: Path) -> nn.Module:
        model: Any = super().build(folder)
        model.config.problem_type = "multi_label_classification"  # so that pipelines of transformers take the sigmoid
        built: nn.Module = model
        return built

    @override
    def encoder(self, folder: Path) -> Encoder:
        return self.text_encoder(folder, self._target_of)

    def _target_of(self, row: Row) -> list[int] | None:
        if "labels" not in row:
            return None
        if row["labels"] is None:
            return [UNLABELLED] * len(self.labels)
        return [int(label in row["labels"]) for label in self.labels]

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        import numpy as np

        arrays = super().collate(batch)
        if targets:
            arrays["labels"] = np.asarray([list(encoded.target) for encoded in batch], dtype=np.float32)
        return arrays

    # -- learning ------------------------------------------------------------------------------------

    @override
    def balanced_class_weights(self, targets: Iterable[Any]) -> list[float]:
        import numpy as np

        positive, rows = np.zeros(len(self.labels)), 0
        for target in targets:
            flags = np.asarray(target)
            if flags[0] != UNLABELLED:
                positive, rows = positive + flags, rows + 1
        weights: list[float] = np.where(positive, (rows - positive) / np.maximum(positive, 1), 1.0).tolist()
        return [max(weight, 1 / max(rows, 1)) for weight in weights]  # a label of all rows must weigh something

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        import torch
        from torch.nn import functional

        labels, logits, smoothing = batch["labels"], outputs["logits"].float(), options.label_smoothing
        known = labels[:, 0] != UNLABELLED
        wanted = labels[known] * (1 - smoothing) + smoothing / 2
        weights = None
        if options.class_weights is not None:
            weights = torch.tensor(options.class_weights, device=logits.device)
        total = functional.binary_cross_entropy_with_logits(logits[known], wanted, pos_weight=weights, reduction="sum")
        return BatchLoss(total, labels.numel())

    @override
    def calibrate(self, run: RunSplit) -> Arrays:
        import numpy as np

        logits, truth = _stack([one for batch in run("validation") for one in self.batch_statistics(*batch)])
        smoothing = smoothing_of(len(truth))
        wanted = truth * (1 - 2 * smoothing) + smoothing

        def loss(temperature: float) -> float:
            scaled = logits / temperature
            return float((np.logaddexp(0, scaled) - wanted * scaled).mean())

        temperature = fit_temperature(loss)
        thresholds = choose_thresholds(sigmoid(logits / temperature), truth)
        return {TEMPERATURE: np.asarray(temperature), THRESHOLDS: thresholds}

    # -- answers -------------------------------------------------------------------------------------

    def _probabilities(self, logits: Matrix) -> Matrix:
        return sigmoid(logits / self.calibration[TEMPERATURE] if self.calibration else logits)

    def _thresholds(self) -> Matrix | float:
        if self.options.threshold is not None:
            return float(self.options.threshold)
        return self.calibration.get(THRESHOLDS, DEFAULT_THRESHOLD)

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        import numpy as np

        logits, options = outputs["logits"].astype(np.float64), self.options
        probabilities = self._probabilities(logits)
        found, values = probabilities >= self._thresholds(), probabilities
        if options.function_to_apply not in (None, "sigmoid"):
            values = apply_function(options.function_to_apply, logits)
        return [self._make_answer(*row) for row in zip(found.tolist(), values.tolist(), strict=True)]

    def _make_answer(self, found: Sequence[bool], values: Sequence[float]) -> dict[str, Any]:
        scores = dict(zip(self.labels, values, strict=True))
        given = {label: scores[label] for label, is_found in zip(self.labels, found, strict=True) if is_found}
        ranked = rank_scores(given, self.options.top_k or len(self.labels))
        labels = [{"label": label, "score": score} for label, score in ranked.items()]
        return {"labels": labels, "scores": rank_scores(scores, self.options.top_k)}

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        return [(logits, encoded.target) for logits, encoded in zip(outputs["logits"], batch, strict=True)]

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        logits, truth = _stack(statistics)
        probabilities, thresholds = self._probabilities(logits), self._thresholds()
        if not self.calibration and self.options.threshold is None:  # in training: those that calibrate would choose
            thresholds = choose_thresholds(probabilities, truth)
        scores = metrics.compute_scores(probabilities >= thresholds, truth, probabilities, self.options.metric)
        if self.calibration:
            scores["ece_uncalibrated"] = expected_calibration_error(sigmoid(logits).ravel(), truth.ravel())
        return scores

    @override
    def answer_schema(self) -> dict[str, Any]:
        found = object_schema(label={"enum": self.labels}, score={"type": "number"})
        return object_schema(labels={"type": "array", "items": found}, scores=scores_schema(self.labels))

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        return ", ".join(f"{found['label']} {found['score']:.3f}" for found in answer["labels"]) or "no label"

    @override
    def answer_columns(self, answer: Mapping[str, Any]) -> Row:
        names = [found["label"] for found in answer["labels"]]
        separator = self.options.separator
        is_clear = not any(separator in label or label.startswith("[") for label in self.labels)
        joined = separator.join(names) if is_clear else json.dumps(names, ensure_ascii=False)
        return {**super().answer_columns(answer), "labels": joined}

    @override
    def agrees(self, answer: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        return {found["label"] for found in answer["labels"]} == {found["label"] for found in other["labels"]}

    # -- serving -------------------------------------------------------------------------------------

    @override
    def output_tensors(self) -> list[TensorSpec]:
        names = {"type": "array", "items": {"enum": self.labels}}
        return [TensorSpec("labels", json_schema=names), TensorSpec("scores", "FP32", (-1, len(self.labels)))]

    @override
    def tensor_values(self, name: str, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        if name == "scores":
            return scores_tensor(answers, self.labels)
        names = ([found["label"] for found in answer["labels"]] for answer in answers)
        return [json.dumps(labels, ensure_ascii=False, separators=(",", ":")) for labels in names]


def _stack(statistics: Sequence[tuple[Matrix, Sequence[int]]]) -> tuple[Matrix, Matrix]:
    """Return logits in double precision and truths, both of shape (rows, labels)."""
    import numpy as np

    logits, truth = zip(*statistics, strict=True)
    return np.stack(logits).astype(np.float64), np.asarray([list(flags) for flags in truth], dtype=bool)
