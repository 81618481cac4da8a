"""The task: a query and a document to a score, the probability that the document is right for the query."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.errors import DataError, OptionError
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
    Route,
    Row,
    TensorSpec,
    object_schema,
)
from fastserve_text.base import TextOptions, TextTask
from fastserve_text.embedding.metrics import find_objective
from fastserve_text.embedding.mining import add_negatives, embed_with, mine_negatives
from fastserve_text.embedding.task import Embedding
from fastserve_text.embedding.task import Options as EmbeddingOptions
from fastserve_text.reranking.encoding import PairEncoder, PairExamples, list_candidates
from fastserve_text.reranking.encoding import split as split_pairs
from fastserve_text.reranking.metrics import METRICS, compute_scores
from fastserve_text.reranking.rows import COLUMNS, check_row, read_input, row_pairs, to_embedding_row
from fastserve_text.sequence_task import check_metric, sigmoid
from fastserve_text.text_regression.task import kept_output

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = "relevance"
"""The name of the only output of a new head in the model's config."""


@dataclass
class Options(TextOptions):
    """``max_length`` is that of a query with its document. ``metric`` is the score by which models are compared.

    A training row without a score gets ``hard_negatives`` documents of other rows, those that the model that is
    trained takes for the closest to the query, and ``random_negatives`` others.
    """

    max_length: int = 256
    hard_negatives: int = 3
    random_negatives: int = 1
    metric: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.hard_negatives, self.random_negatives) < 0 or not self.hard_negatives + self.random_negatives:
            raise OptionError("task.hard_negatives and task.random_negatives must be 0 or more, and not both 0")
        if self.metric is not None:
            check_metric(self.metric, METRICS)


class Reranking(TextTask):
    """Scores a document for a query with a cross-encoder (Nogueira and Cho 2019)."""

    name: ClassVar[str] = "reranking"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = COLUMNS
    head: ClassVar[str] = "ForSequenceClassification"
    metrics: ClassVar[Mapping[str, MetricSpec]] = METRICS
    model_computes_loss: ClassVar[bool] = False
    uncompressed_modules: ClassVar[tuple[str, ...]] = ("classifier", "score")
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(comparison="binary"),)
    answer_view: ClassVar[AnswerView] = AnswerView(headline="score")
    completes_rows: bool = True
    not_in_rows: ClassVar[frozenset[str]] = frozenset(option.name for option in fields(Options))

    def __init__(self, options: Any, labels: Sequence[str] = ()) -> None:
        super().__init__(options, labels)
        self._bounds = (0.0, 1.0)
        self._encode: PairEncoder | None = None

    @override
    @property
    def main_metric(self) -> str:
        return self.options.metric or next(iter(METRICS))

    # -- rows ----------------------------------------------------------------------------------------

    @override
    def check(self, row: Row) -> str | None:
        row["is_labelled"] = True
        return check_row(row)

    @override
    def row_labels(self, row: Row) -> set[str]:
        return set()

    @override
    def read_input(self, value: Any) -> Row:
        return read_input(value)

    @override
    def make_rows(self, inputs: Sequence[Any], targets: Sequence[Any] | None = None) -> list[Row]:
        rows = [dict(value) if isinstance(value, Mapping) else read_input(value) for value in inputs]
        if targets is not None:
            if len(targets) != len(rows):
                raise DataError(f"{len(rows)} inputs but {len(targets)} labels: one each is needed")
            rows = [{**row, "score": target} for row, target in zip(rows, targets, strict=True)]
        for number, row in enumerate(rows):
            if fault := self.check(row):
                raise DataError(f"row {number + 1} cannot be used: {fault}")
        return rows

    @override
    def texts(self, rows: Sequence[Row]) -> Iterator[str]:
        return (text for row in rows for pair in row_pairs(row) for text in pair)

    @override
    def why_unlikely(self, rows: Sequence[Row]) -> str | None:
        has_scores = all("score" in row for row in rows)
        is_single = len({row["query"] for row in rows}) == len(rows)
        return "all rows have scores, and no query has several documents" if has_scores and is_single else None

    # -- the model and its batches -------------------------------------------------------------------

    @override
    def build(self, folder: Path) -> nn.Module:
        from fastserve_text.model_factory import build_and_describe

        name = kept_output(folder, self.head) or OUTPUT
        model, self.head_report = build_and_describe(folder, self.head, [name])
        return model

    @override
    def complete_rows(self, rows: Sequence[Row], folder: Path, report: Callable[[str], None]) -> Callable[[Row], Row]:
        hard, drawn = self.options.hard_negatives, self.options.random_negatives
        pairs = [to_embedding_row(row) for row in rows]
        embed = embed_with(Embedding(EmbeddingOptions(self.options.max_length)), folder)
        mined = mine_negatives(pairs, hard, embed, report) if hard else {}
        documents = sorted({row["document"] for row in rows})

        def complete(row: Row) -> Row:
            if row.get("score") is not None:
                return row
            found = add_negatives(to_embedding_row(row), mined, hard).get("negative", [])
            known = {row["document"], row["query"], *found}
            others = random.Random(row["query"]).sample(documents, min(len(documents), drawn + len(known)))
            more = [document for document in others if document not in known][:drawn]
            return {**row, "negative": [*found, *more]}

        return complete

    @override
    def encoder(self, folder: Path) -> Encoder:
        self._encode = PairEncoder(self.prepare_padding(folder), self.options.max_length)
        return self._encode

    @override
    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        if seed != "validation" or self._encode is None:
            return PairExamples(encoded)
        return list_candidates(encoded, self._encode)

    @override
    def windows(self, encoded: Encoded) -> Sequence[Encoded]:
        return split_pairs(encoded)[:1]

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        import numpy as np

        arrays = super().collate(batch)
        if targets:
            values = [np.nan if encoded.target is None else encoded.target for encoded in batch]
            arrays["labels"] = np.asarray(values, dtype=np.float32)
        return arrays

    # -- learning ------------------------------------------------------------------------------------

    @override
    def fit_targets(self, targets: Iterable[Any]) -> None:
        import numpy as np

        scores = np.asarray([target[0] for target in targets if target is not None], dtype=np.float64)
        scores = scores[~np.isnan(scores)]
        if len(scores) and np.ptp(scores):
            self._bounds = (min(0.0, float(scores.min())), max(1.0, float(scores.max())))

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        from torch.nn import functional

        lowest, highest = self._bounds
        labels = (batch["labels"] - lowest) / (highest - lowest)
        is_labelled = ~labels.isnan()
        logits = outputs["logits"].float()[:, 0]
        total = functional.binary_cross_entropy_with_logits(
            logits[is_labelled], labels[is_labelled].clamp(0, 1), reduction="sum"
        )
        return BatchLoss(total, len(labels))

    @override
    def counted_positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        import torch

        return torch.ones_like(batch["labels"], dtype=torch.bool)

    # -- answers -------------------------------------------------------------------------------------

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        return [{"score": score} for score in sigmoid(outputs["logits"][:, 0].astype("float64")).tolist()]

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        return [(pair.decode_state, score) for pair, score in zip(batch, outputs["logits"][:, 0].tolist(), strict=True)]

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        return compute_scores(statistics)

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return find_objective(scores, self.options.metric, METRICS)

    @override
    def answer_schema(self) -> dict[str, Any]:
        return object_schema(score={"type": "number", "minimum": 0, "maximum": 1})

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        return f"{answer['score']:.4f}"

    @override
    def agrees(self, answer: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Return whether both scores are on one side of a half, or nearly equal."""
        first, second = answer["score"], other["score"]
        return bool((first >= 0.5) == (second >= 0.5) or abs(first - second) < AGREEMENT)

    @override
    def output_tensors(self) -> list[TensorSpec]:
        return [TensorSpec("score", "FP32")]

    @override
    def tensor_values(self, name: str, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        return [answer[name] for answer in answers]

    @override
    def routes(self, folder: Path) -> Sequence[Route]:
        from fastserve_text.reranking.routes import Rerank, RerankV1

        return [Rerank(), RerankV1()]


AGREEMENT = 0.05
"""How far apart two scores are at most that are the same answer."""
