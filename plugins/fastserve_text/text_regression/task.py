"""The task: a number for a text, or for a pair of texts, in the unit of the training data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.artifacts import list_weight_files, read_config
from fastserve_core.errors import DataError, OptionError, did_you_mean
from fastserve_core.tasks import (
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
    plain_value,
    read_label,
)
from fastserve_text.recognition import holds_numbers
from fastserve_text.sequence_task import SequenceOptions, SequenceTask, apply_function, check_metric
from fastserve_text.text_regression.metrics import METRICS, ORDINAL_METRICS, compute_ordinal_scores, compute_scores
from fastserve_text.text_regression.scale import Scale

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = "score"
"""The name of the only output of a new head in the model's config."""
ERROR = "rmse"
"""The name of the model's root mean square error in its calibration, within which two models agree."""


@dataclass
class Options(SequenceOptions):
    """``max_length`` is in tokens; longer texts are cut. ``metric`` is the score by which models are compared.

    With ``levels``, the data has these names instead of numbers, which stand for 0, 1 … in their order.
    ``function_to_apply`` may be ``sigmoid``, for a model whose outputs are logits; by default it is ``none``.
    """

    metric: str = "spearman"
    levels: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_metric(self.metric, {**METRICS, **ORDINAL_METRICS} if self.levels else METRICS)
        if len(self.levels) == 1 or len(set(self.levels)) < len(self.levels):
            raise OptionError(f"task.levels must be two or more different names in their order, not {self.levels}")
        if self.function_to_apply == "softmax":
            raise OptionError("task.function_to_apply must be sigmoid or none: the softmax of one number is 1")


class TextRegression(SequenceTask):
    """Predicts a number for a text or a pair of texts."""

    name: ClassVar[str] = "text_regression"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        *SequenceTask.text_columns,
        Column(
            "score",
            is_label=True,
            usual_names=(
                "similarity_score", "similarity", "rating", "stars", "value", "label", "target",
                "评分", "分数", "相似度",
            ),
        ),
    )  # fmt: skip
    metrics: ClassVar[Mapping[str, MetricSpec]] = {**METRICS, **ORDINAL_METRICS}
    uncompressed_modules: ClassVar[tuple[str, ...]] = ("classifier", "score")  # small, and 8 bits are 256 numbers
    is_calibrated: ClassVar[bool] = True
    answer_view: ClassVar[AnswerView] = AnswerView(headline="score")
    request_parameters: ClassVar[Mapping[str, str]] = {"function_to_apply": "function_to_apply"}

    def __init__(self, options: Any, labels: Sequence[str] = ()) -> None:
        super().__init__(options, labels)
        self.scale = Scale()
        """That of the training rows while a model is trained."""
        self._is_scaled = False

    # -- rows ----------------------------------------------------------------------------------------

    @override
    def check(self, row: Row) -> str | None:
        if fault := super().check(row):
            return fault
        try:
            value = row.get("score")
            row["score"] = read_level(value, self.options.levels) if self.options.levels else read_number(value)
        except ValueError as error:
            return f"'score' {error}"
        return None

    @override
    def recognizes_column(self, column: Column, values: Sequence[Any]) -> bool:
        return holds_numbers(values) if column.is_label else super().recognizes_column(column, values)

    @override
    def why_unlikely(self, rows: Sequence[Row]) -> str | None:
        return None if len({row["score"] for row in rows}) > 2 else "there are two different numbers"

    @override
    def collect_labels(self, rows: Sequence[Row]) -> list[str]:
        numbers = {row["score"] for row in rows}
        if len(numbers) < 2:
            raise DataError(f"all {len(rows)} training rows have the score {numbers.pop():g}: two are needed")
        return []

    @override
    def row_labels(self, row: Row) -> set[str]:
        return set()

    # -- the model and its batches -------------------------------------------------------------------

    @override
    def fit_targets(self, targets: Iterable[Any]) -> None:
        self.scale, self._is_scaled = Scale.of(targets), True

    @override
    def build(self, folder: Path) -> nn.Module:
        from fastserve_text.model_factory import build_and_describe

        name = kept_output(folder, self.head)
        model, self.head_report = build_and_describe(folder, self.head, [name or OUTPUT])
        model.config.problem_type = "regression"  # type: ignore[union-attr]
        if self._is_scaled:
            from fastserve_text.text_regression.scaled_head import scale_head

            scale_head(model, self.scale, is_kept=name is not None)
        return model

    @override
    def finish(self, model: nn.Module) -> nn.Module:
        from fastserve_text.text_regression.scaled_head import fold_head

        fold_head(model)
        return model

    @override
    def encoder(self, folder: Path) -> Encoder:
        def target_of(row: Row) -> float | None:
            if "score" not in row:
                return None
            return math.nan if row["score"] is None else row["score"]

        return self.text_encoder(folder, target_of)

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        import numpy as np

        arrays = super().collate(batch)
        if targets:
            arrays["labels"] = np.asarray([encoded.target for encoded in batch], dtype=np.float32)
        return arrays

    # -- learning ------------------------------------------------------------------------------------

    @property
    def distillation_targets(self) -> tuple[DistillationTarget, ...]:  # type: ignore[override]
        """The output, compared in the unit of the loss."""
        return (DistillationTarget("logits", "regression", self.scale.deviation),)

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        labels = batch["labels"]
        distance = (outputs["logits"].float().squeeze(-1) - labels) / self.scale.deviation
        return BatchLoss(distance[~labels.isnan()].square().sum(), len(labels))

    @override
    def counted_positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        import torch

        return torch.ones_like(batch["labels"], dtype=torch.bool)

    @override
    def calibrate(self, run: RunSplit) -> Arrays:
        import numpy as np

        statistics = [one for outputs, batch in run("validation") for one in self.batch_statistics(outputs, batch)]
        return {ERROR: np.asarray(self.score(statistics)["rmse"])}

    # -- answers -------------------------------------------------------------------------------------

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        values = apply_function(self.options.function_to_apply or "none", outputs["logits"][:, 0])
        return [{"score": value, **self._name_level(value)} for value in values.tolist()]

    def _name_level(self, value: float) -> dict[str, str]:
        """Return the nearest level as ``label``, if the task has levels."""
        levels = self.options.levels
        return {"label": levels[min(max(round(value), 0), len(levels) - 1)]} if levels else {}

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        return [(value, one.target) for value, one in zip(outputs["logits"][:, 0].tolist(), batch, strict=True)]

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        import numpy as np

        values, truth = np.asarray(statistics, dtype=np.float64).T
        scores, levels = compute_scores(values, truth), len(self.options.levels)
        return {**scores, **compute_ordinal_scores(values, truth, levels)} if levels else scores

    @override
    def answer_schema(self) -> dict[str, Any]:
        levels = {"label": {"enum": list(self.options.levels)}} if self.options.levels else {}
        return object_schema(score={"type": "number"}, **levels)

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        score = answer["score"]
        number = f"{score:.4g}" if abs(score) < 1 else f"{score:.4f}"
        return f"{answer['label']}\t{number}" if "label" in answer else number

    @override
    def agrees(self, answer: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Return whether the difference is less than the model's own error on the validation split."""
        error = float(self.calibration.get(ERROR, 0.0))
        return bool(abs(answer["score"] - other["score"]) <= error)

    @override
    def output_tensors(self) -> list[TensorSpec]:
        return [TensorSpec("score", "FP32"), *([TensorSpec("label")] if self.options.levels else [])]

    @override
    def tensor_values(self, name: str, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        return [answer[name] for answer in answers]


def read_number(value: Any) -> float:
    """Return the number of a cell; raises ``ValueError`` with the end of a message that begins with the column."""
    value = plain_value(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError("is empty")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"is {type(value).__name__}, not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"is not a number: '{value}'") from None
    if not math.isfinite(number):
        raise ValueError(f"is not a finite number: {value}")
    return number


def read_level(value: Any, levels: Sequence[str]) -> float:
    """Return the number of a cell's level; raises ``ValueError`` with the end of a message, as ``read_number``."""
    name = read_label(value)
    if name not in levels:
        raise ValueError(f"is '{name}', which is none of task.levels{did_you_mean(name, levels)}")
    return float(list(levels).index(name))


def kept_output(folder: Path, head: str) -> str | None:
    """Return the name of the output of a regression head that a folder has; ``None`` if it has none."""
    config = read_config(folder)
    names = list((config.get("id2label") or {}).values())
    is_own = any(name.endswith(head) for name in config.get("architectures") or ())
    is_number = len(names) == 1 and config.get("problem_type") in (None, "regression")
    return str(names[0]) if is_own and is_number and list_weight_files(folder) else None
