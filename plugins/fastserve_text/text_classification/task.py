"""The task: one label for a text, or for a pair of texts, with a probability that is calibrated on validation rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.errors import DataError
from fastserve_core.tasks import (
    UNLABELLED,
    AnswerView,
    Arrays,
    BatchLoss,
    Column,
    DistillationTarget,
    Doubt,
    Encoded,
    Encoder,
    LossOptions,
    MetricSpec,
    Row,
    RunSplit,
    TensorSpec,
    log_softmax,
    object_schema,
    read_label,
    softmax,
)
from fastserve_text.base import sorted_labels
from fastserve_text.confidence import contradict_labels, fit_temperature, smoothing_of
from fastserve_text.losses import cross_entropy
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
)
from fastserve_text.text_classification.contrastive import (
    check_family,
    contrastive_loss,
    finish_few_shot,
    has_new_head,
    prepare_few_shot,
)
from fastserve_text.text_classification.head_fit import fit_head
from fastserve_text.text_classification.metrics import CALIBRATION, DECISIONS, RANKINGS, compute_scores
from fastserve_text.text_classification.pairs import Pairs, split_pairs

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

TEMPERATURE = "temperature"


@dataclass
class Options(SequenceOptions):
    """``max_length`` is in tokens; longer texts are cut. ``metric`` is the score by which models are compared.

    An answer has the scores of ``top_k`` labels, by default of all; ``function_to_apply`` makes them of logits.

    ``few_shot`` trains on pairs of texts: texts of one label get similar vectors, texts of others different ones,
    while the head learns to read them (after Tunstall et al. 2022 and Gunel et al. 2021). It pays from about 4 to 64
    rows a label.
    """

    metric: str = "accuracy"
    top_k: int | None = None
    few_shot: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_metric(self.metric, (*DECISIONS, *RANKINGS))
        check_top_k(self.top_k)


class TextClassification(SequenceTask):
    """Assigns one of several labels to a text or a pair of texts."""

    name: ClassVar[str] = "text_classification"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        *SequenceTask.text_columns,
        Column("label", is_label=True, usual_names=("labels", *LABEL_NAMES)),
    )
    metrics: ClassVar[Mapping[str, MetricSpec]] = {**DECISIONS, **RANKINGS, **CALIBRATION}
    loss_options: ClassVar[frozenset[str]] = frozenset({"class_weights", "label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(),)
    is_calibrated: ClassVar[bool] = True
    training_options: ClassVar[frozenset[str]] = frozenset({"few_shot"})
    not_in_rows: ClassVar[frozenset[str]] = SequenceTask.not_in_rows | {"few_shot"}
    answer_view: ClassVar[AnswerView] = AnswerView(headline="label", scores="scores")
    request_parameters: ClassVar[Mapping[str, str]] = {"top_k": "top_k", "function_to_apply": "function_to_apply"}

    def __init__(self, options: Any, labels: Sequence[str] = ()) -> None:
        super().__init__(options, labels)
        self.trains_on_pairs = False
        """Whether a trainer learns with ``few_shot``; models are also built for other purposes."""
        self._has_new_head = False

    # -- rows ----------------------------------------------------------------------------------------

    @override
    def check(self, row: Row) -> str | None:
        if fault := super().check(row):
            return fault
        try:
            row["label"] = read_label(row.get("label"))
        except ValueError as error:
            return f"'label' {error}"
        return None

    @override
    def why_unlikely(self, rows: Sequence[Row]) -> str | None:
        try:
            numbers = [float(row["label"]) for row in rows]
        except ValueError:
            return None
        return None if all(map(float.is_integer, numbers)) else "the labels are numbers with decimals"

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
    def encoder(self, folder: Path) -> Encoder:
        numbers = {label: number for number, label in enumerate(self.labels)}

        def target_of(row: Row) -> int | None:
            if "label" not in row:
                return None
            return UNLABELLED if row["label"] is None else numbers.get(row["label"])

        return self.text_encoder(folder, target_of)

    # -- the model and its batches -------------------------------------------------------------------

    @override
    def check_model(self, folder: Path) -> None:
        super().check_model(folder)
        if self.options.few_shot:
            check_family(folder)

    @override
    def fit_targets(self, targets: Iterable[Any]) -> None:
        self.trains_on_pairs = self.options.few_shot

    @override
    def build(self, folder: Path) -> nn.Module:
        model = super().build(folder)
        if self.trains_on_pairs:
            self._has_new_head = has_new_head(folder, self.head)
            prepare_few_shot(model, folder, self._has_new_head)
        return model

    @override
    def initialize(self, model: nn.Module, encoded: Sequence[Encoded]) -> None:
        if self._has_new_head:
            fit_head(model, self, encoded)

    @override
    def finish(self, model: nn.Module) -> nn.Module:
        if self.trains_on_pairs:
            finish_few_shot(model)
        return model

    @override
    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        return Pairs(encoded, seed) if self.trains_on_pairs and seed != "validation" else encoded

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        return super().collate(split_pairs(batch), targets)

    # -- learning ------------------------------------------------------------------------------------

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        loss = cross_entropy(outputs["logits"], batch["labels"], options)
        if not self.trains_on_pairs:
            return loss
        return BatchLoss(loss.total + contrastive_loss(outputs["hidden_states"][-1], batch["labels"]), loss.denominator)

    @override
    def calibrate(self, run: RunSplit) -> Arrays:
        import numpy as np

        statistics = [one for outputs, batch in run("validation") for one in self.batch_statistics(outputs, batch)]
        logits, truth = _stack(statistics)
        smoothing = smoothing_of(len(truth))

        def loss(temperature: float) -> float:
            logs = log_softmax(logits / temperature)
            hit = logs[np.arange(len(truth)), truth]
            others = (logs.sum(axis=1) - hit) / max(1, logs.shape[1] - 1)
            return float(-((1 - smoothing) * hit + smoothing * others).mean())

        return {TEMPERATURE: np.asarray(fit_temperature(loss))}

    # -- answers -------------------------------------------------------------------------------------

    @property
    def _temperature(self) -> float | None:
        return float(self.calibration[TEMPERATURE]) if self.calibration else None

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        function, logits = self.options.function_to_apply or "softmax", outputs["logits"]
        if function == "softmax":
            logits = logits / (self._temperature or 1.0)
        answers = []
        for row in apply_function(function, logits).tolist():
            scores = dict(zip(self.labels, row, strict=True))
            best = max(scores, key=scores.__getitem__)
            answers.append({"label": best, "score": scores[best], "scores": rank_scores(scores, self.options.top_k)})
        return answers

    @override
    def find_doubts(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Doubt | None]:
        probabilities = softmax(outputs["logits"] / (self._temperature or 1.0))
        return contradict_labels(probabilities, [one.target for one in batch], self.labels)

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        return [(logits, encoded.target) for logits, encoded in zip(outputs["logits"], batch, strict=True)]

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        return compute_scores(*_stack(statistics), self.options.metric, self._temperature)

    @override
    def answer_schema(self) -> dict[str, Any]:
        return object_schema(label={"enum": self.labels}, score={"type": "number"}, scores=scores_schema(self.labels))

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        return f"{answer['label']}\t{answer['score']:.3f}"

    # -- serving -------------------------------------------------------------------------------------

    @override
    def output_tensors(self) -> list[TensorSpec]:
        return [TensorSpec("label"), TensorSpec("scores", "FP32", (-1, len(self.labels)))]

    @override
    def tensor_values(self, name: str, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        return scores_tensor(answers, self.labels) if name == "scores" else [answer["label"] for answer in answers]


def _stack(statistics: Sequence[tuple[np.ndarray[Any, Any], int]]) -> tuple[Any, Any]:
    """Return logits of shape (rows, labels) in double precision, and the numbers of the true labels."""
    import numpy as np

    logits, truth = zip(*statistics, strict=True)
    return np.stack(logits).astype(np.float64), np.asarray(truth)
