"""The task: questions and contexts to windows of tokens, logits of starts and ends to answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from operator import not_
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

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
    Proposal,
    Row,
    TensorSpec,
    object_schema,
)
from fastserve_text.base import TextTask, validate_text
from fastserve_text.losses import cross_entropy
from fastserve_text.question_answering.answers import normalize_answers, split_article
from fastserve_text.question_answering.encoding import Question, QuestionEncoder, make_window, target_frame
from fastserve_text.question_answering.metrics import exact_match, token_f1
from fastserve_text.question_answering.spans import WindowLogits, best_spans
from fastserve_text.tokenization import check_positions
from fastserve_text.windows import WindowExamples, WindowLayout

if TYPE_CHECKING:
    from torch import Tensor, nn

COLUMNS = ("question", "context")


@dataclass
class Options:
    """Lengths are in tokens. ``stride`` is shared by neighbouring windows, ``max_answer_length`` that of an answer.

    With ``no_answer`` a question may have none in its context, and ``no_answer_threshold`` is added to the
    logarithm of the probability of that. ``top_k`` answers are returned.
    """

    max_length: int = 384
    stride: int = 128
    max_answer_length: int = 30
    no_answer: bool = False
    no_answer_threshold: float = 0.0
    top_k: int = 1

    def __post_init__(self) -> None:
        if self.max_length < 16:
            raise OptionError(f"task.max_length must be at least 16 tokens, not {self.max_length}")
        WindowLayout(self.max_length, self.stride)
        for name in ("max_answer_length", "top_k"):
            if getattr(self, name) < 1:
                raise OptionError(f"task.{name} must be at least 1, not {getattr(self, name)}")
        if not math.isfinite(self.no_answer_threshold):
            raise OptionError(f"task.no_answer_threshold must be a finite number, not {self.no_answer_threshold}")


class WindowStatistics(NamedTuple):
    """The best answer of a window, and the logarithms of its probability and of that of "no answer"."""

    key: str
    truths: Sequence[str]
    answer: str
    log_probability: float
    null: float


class QuestionAnswering(TextTask):
    """Finds the answer to a question in a context of any length, or that it has none (Rajpurkar et al. 2016, 2018)."""

    name: ClassVar[str] = "question_answering"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        Column("question", title="Question", usual_names=("query", "query_text")),
        Column("context", title="Context", usual_names=("paragraph", "passage", "context_text")),
        Column("answers", is_label=True, usual_names=("answer",)),
    )
    head: ClassVar[str] = "ForQuestionAnswering"
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "f1": MetricSpec(unit="%"),
        "em": MetricSpec(unit="%", is_share_of_rows=True),
        "has_answer_f1": MetricSpec(unit="%"),
        "no_answer_accuracy": MetricSpec(unit="%"),
    }
    target_names: ClassVar[tuple[str, ...]] = ("start_positions", "end_positions")
    model_computes_loss: ClassVar[bool] = False
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (
        DistillationTarget("start_logits", "span"),
        DistillationTarget("end_logits", "span"),
    )
    answer_view: ClassVar[AnswerView] = AnswerView(headline="answer", spans=".", span_input="context")
    request_parameters: ClassVar[Mapping[str, str]] = {  # by the names of transformers' pipeline
        "top_k": "top_k",
        "handle_impossible_answer": "no_answer",
        "max_answer_len": "max_answer_length",
        "doc_stride": "stride",
    }

    readings: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"no_answer": True})

    @property
    def layout(self) -> WindowLayout:
        """How contexts are cut."""
        return WindowLayout(self.options.max_length, self.options.stride)

    # -- rows ----------------------------------------------------------------------------------------

    @override
    def split_record(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return split_article(values)

    @override
    def check(self, row: Row) -> str | None:
        for name in COLUMNS:
            if fault := validate_text(row, name):
                return fault
        if fault := normalize_answers(row):
            return fault
        if not row["answers"] and not self.options.no_answer:
            return "the question has no answer: set task.no_answer=true if some questions have none"
        return None

    @override
    def propose_length(self, rows: Sequence[Row]) -> Proposal:
        return Proposal()  # texts of any length are read

    @override
    def collect_labels(self, rows: Sequence[Row]) -> list[str]:
        if not any(row["answers"] for row in rows):
            raise DataError(f"none of the {len(rows)} training questions has an answer")
        return []

    @override
    def row_labels(self, row: Row) -> set[str]:
        return set()

    @override
    def stratify_key(self, row: Row) -> str:
        return "answered" if row["answers"] else "unanswered"

    @override
    def read_input(self, value: Any) -> Row:
        if isinstance(value, (list, tuple)) and len(value) == 2:
            value = dict(zip(COLUMNS, value, strict=True))
        if not isinstance(value, Mapping):
            raise DataError("an input cannot be used: give a question and its context")
        row = {name: value.get(name) for name in COLUMNS}
        for name in COLUMNS:
            if fault := validate_text(row, name):
                raise DataError(f"an input cannot be used: {fault}")
        return row

    @override
    def texts(self, rows: Sequence[Row]) -> Iterator[str]:
        return (row[name] for row in rows for name in COLUMNS)

    # -- the model and its batches -------------------------------------------------------------------

    @override
    def build(self, folder: Path) -> nn.Module:
        from fastserve_text.model_factory import build_model

        return build_model(folder, self.head, ["start", "end"])

    @override
    def encoder(self, folder: Path) -> Encoder:
        check_positions(folder, self.options.max_length)
        tokenizer = self.prepare_padding(folder)
        tokenizer.no_truncation()

        return QuestionEncoder(tokenizer, self.options.max_length)

    @override
    def windows(self, encoded: Encoded) -> Sequence[Encoded]:
        question: Question = encoded.decode_state
        starts = self.layout.starts(len(encoded), question.frame)
        if len(starts) == 1:
            return (encoded,)
        return [Encoded(self.layout.cut(encoded, question.frame, start)) for start in starts]

    @override
    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        return WindowExamples(encoded, self.layout, target_frame, partial(make_window, self.layout))

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        import numpy as np

        arrays = super().collate(batch)
        if targets:
            places = np.asarray([encoded.target for encoded in batch], dtype=np.int64)
            arrays |= dict(zip(self.target_names, places.T, strict=True))
        return arrays

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        losses = [
            cross_entropy(outputs[logits], batch[places], options)
            for logits, places in zip(("start_logits", "end_logits"), self.target_names, strict=True)
        ]
        return BatchLoss((losses[0].total + losses[1].total) / 2, losses[0].denominator)

    @override
    def counted_positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        import torch

        return torch.ones_like(batch["start_positions"], dtype=torch.bool)

    # -- answers -------------------------------------------------------------------------------------

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        answers, row = [], 0
        for encoded in batch:
            question: Question = encoded.decode_state
            starts = self.layout.starts(len(encoded), question.frame)
            windows = [
                self._window_logits(outputs, row + number, question, start) for number, start in enumerate(starts)
            ]
            answers.append(self._best_answers(question, windows))
            row += len(starts)
        return answers

    def _window_logits(self, outputs: Arrays, row: int, question: Question, start: int) -> WindowLogits:
        frame = question.frame
        count = min(self.layout.room(frame), len(question.offsets) - start)
        starts, ends = (outputs[name][row] for name in ("start_logits", "end_logits"))
        body = slice(frame.prefix, frame.prefix + count)
        return WindowLogits(start, starts[body], ends[body], float(starts[0]) + float(ends[0]))

    def _best_answers(self, question: Question, windows: Sequence[WindowLogits]) -> dict[str, Any]:
        options = self.options
        spans, null = best_spans(windows, options.max_answer_length, options.top_k)
        found = [(span.log_probability, *question.characters(span.start, span.end)) for span in spans]
        if options.no_answer and null + options.no_answer_threshold > found[0][0]:
            found.insert(0, (null, 0, 0))
        answers = [
            {"answer": question.context[start:end], "score": math.exp(value), "start": start, "end": end}
            for value, start, end in found[: options.top_k]
        ]
        return answers[0] | ({"answers": answers} if options.top_k > 1 else {})

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        statistics = []
        for number, encoded in enumerate(batch):
            question, start = encoded.decode_state
            window = self._window_logits(outputs, number, question, start)
            spans, null = best_spans([window], self.options.max_answer_length, 1)
            begin, end = question.characters(spans[0].start, spans[0].end)
            answer = question.context[begin:end]
            statistics.append(WindowStatistics(question.key, question.truths, answer, spans[0].log_probability, null))
        return statistics

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        rows: dict[str, list[WindowStatistics]] = {}
        for window in statistics:
            rows.setdefault(window.key, []).append(window)
        found = [(self._choose(windows), windows[0].truths) for windows in rows.values()]
        exact, f1 = ([metric(*one) for one in found] for metric in (exact_match, token_f1))
        scores = {"em": fmean(exact), "f1": fmean(f1)}
        unanswered = [not truths for _, truths in found]
        if any(unanswered) and not all(unanswered):
            scores["has_answer_f1"] = fmean(compress(f1, map(not_, unanswered)))
            scores["no_answer_accuracy"] = fmean(compress(exact, unanswered))
        return scores

    def _choose(self, windows: Sequence[WindowStatistics]) -> str:
        """Return the answer that ``decode`` gives to the same windows."""
        best = max(windows, key=lambda window: window.log_probability)
        null = min(window.null for window in windows) + self.options.no_answer_threshold
        return "" if self.options.no_answer and null > best.log_probability else best.answer

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return scores["f1"]

    @override
    def answer_schema(self) -> dict[str, Any]:
        text, score = {"type": "string"}, {"type": "number", "minimum": 0, "maximum": 1}
        character = {"type": "integer", "minimum": 0, "description": "counted in characters of the context"}
        answer = object_schema(answer=text, score=score, start=character, end=character)
        several = {"type": "array", "items": answer, "description": "the best ones, if top_k is above 1"}
        required = answer["required"] if self.options.top_k == 1 else [*answer["required"], "answers"]
        return {**answer, "properties": {**answer["properties"], "answers": several}, "required": required}

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        return f"{answer['answer'] or '(no answer)'}\t{answer['score']:.3f}"

    @override
    def output_tensors(self) -> list[TensorSpec]:
        positions = [TensorSpec(name, "INT64") for name in ("start", "end")]
        return [TensorSpec("answer"), TensorSpec("score", "FP32"), *positions]

    @override
    def tensor_values(self, name: str, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        return [answer[name] for answer in answers]
