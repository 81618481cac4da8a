"""The task: words to windows of tokens, logits to tags without contradictions, and tags to entities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

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
    object_schema,
)
from fastserve_text.base import sorted_labels
from fastserve_text.losses import cross_entropy
from fastserve_text.tagging import base
from fastserve_text.tagging.aggregation import STRATEGIES
from fastserve_text.tagging.base import WordTask
from fastserve_text.tagging.encoding import WordAlignment, WordEncoder
from fastserve_text.tagging.tag_schemes import OUTSIDE
from fastserve_text.tagging.tagger import Tagger
from fastserve_text.token_classification.records import normalize_row, unify_record

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Matrix = np.ndarray[Any, Any]


@dataclass
class Options(base.Options):
    """``aggregation_strategy`` is how the tokens of a word, and the words of an entity, become one."""

    aggregation_strategy: str = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aggregation_strategy not in STRATEGIES:
            hint = did_you_mean(self.aggregation_strategy, STRATEGIES)
            raise OptionError(
                f"task.aggregation_strategy must be one of {', '.join(STRATEGIES)}, "
                f"not '{self.aggregation_strategy}'{hint}"
            )


class TokenClassification(WordTask):
    """Labels every word of a text of any length, and groups the labels into entities."""

    name: ClassVar[str] = "token_classification"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        Column("tokens", usual_names=("words",)),
        Column("tags", is_label=True, usual_names=("ner_tags", "labels", "ner")),
    )
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "f1": MetricSpec(unit="%"),
        "accuracy": MetricSpec(unit="%"),  # of words, of which a split has more than rows
    }
    model_computes_loss: ClassVar[bool] = False
    loss_options: ClassVar[frozenset[str]] = frozenset({"class_weights", "label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(),)
    answer_view: ClassVar[AnswerView] = AnswerView(spans="spans", span_name="entity_group")
    request_parameters: ClassVar[Mapping[str, str]] = {name: name for name in ("aggregation_strategy", "stride")}

    # -- rows ----------------------------------------------------------------------------------------

    @override
    def split_record(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield "", unify_record(values)

    @override
    def check(self, row: Row) -> str | None:
        try:
            normalize_row(row)
        except ValueError as error:
            return str(error)
        return None

    @override
    def make_rows(self, inputs: Sequence[Any], targets: Sequence[Any] | None = None) -> list[Row]:
        if targets is None:
            inputs = [unify_record(value) if isinstance(value, Mapping) else value for value in inputs]
        return super().make_rows(inputs, targets)

    @override
    def collect_labels(self, rows: Sequence[Row]) -> list[str]:
        found = {tag for row in rows for tag in row["tags"]}
        if len(found) < 2:
            raise DataError(f"all tags of the training rows are '{next(iter(found))}': two are needed")
        return sorted_labels(found)

    @override
    def stratify_key(self, row: Row) -> str:
        return " ".join(sorted({tag for tag in row["tags"] if tag != OUTSIDE})[:1])

    # -- the model and its batches -------------------------------------------------------------------

    @override
    def encoder(self, folder: Path) -> Encoder:
        numbers = {label: number for number, label in enumerate(self.labels)}
        return WordEncoder(self.prepare_tokenizer(folder), numbers)

    # -- learning and answers ------------------------------------------------------------------------

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        return cross_entropy(outputs["logits"], batch["labels"], options)

    @cached_property
    def _tagger(self) -> Tagger:
        return Tagger(self.labels)

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        return [
            self._make_answer(encoded.decode_state, logits) for encoded, _, logits in self.merge_rows(outputs, batch)
        ]

    def _make_answer(self, alignment: WordAlignment, logits: Matrix) -> dict[str, Any]:
        tags, scores = self._choose_tags(alignment, logits)
        words = [
            {"word": word, "tag": tag, "score": score}
            for word, tag, score in zip(alignment.words, tags, scores, strict=True)
        ]
        found = self._tagger.find_spans(alignment, tags, scores)
        entities = [{"type": one.kind, "text": one.text, "start": one.first_word, "end": one.end_word} for one in found]
        spans = [
            {"entity_group": one.kind, "word": one.text, "start": one.start, "end": one.end, "score": one.score}
            for one in found
        ]
        if self.options.aggregation_strategy == "none":
            spans = list(_word_spans(alignment, words))
        return {"tags": tags, "words": words, "entities": entities, "spans": spans}

    def _choose_tags(self, alignment: WordAlignment, logits: Matrix) -> tuple[list[str], list[float]]:
        return self._tagger.choose(alignment, logits, self.options.aggregation_strategy)

    @override
    def compare(self, alignment: Any, logits: Matrix, evidence: Sequence[Any]) -> tuple[list[str], list[str]]:
        return self._choose_tags(alignment, logits)[0], list(alignment.tags)

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        from seqeval.metrics import accuracy_score, f1_score

        guesses, truth = [list(column) for column in zip(*self.join_windows(statistics), strict=True)]
        scores = {"accuracy": float(accuracy_score(truth, guesses))}
        marked = [[self._tagger.mark(row) for row in rows] for rows in (truth, guesses)]
        if any(tag != OUTSIDE for row in marked[0] for tag in row):
            scores["f1"] = float(f1_score(*marked, zero_division=0))
        return scores

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return scores.get("f1", scores["accuracy"])

    @override
    def answer_schema(self) -> dict[str, Any]:
        text, number, tag = {"type": "string"}, {"type": "number"}, {"enum": sorted({*self.labels, OUTSIDE})}
        word = object_schema(word=text, tag=tag, score=number)
        index, character = (
            {"type": "integer", "minimum": 0, "description": f"counted in {unit}"} for unit in ("words", "characters")
        )
        entity = object_schema(type=text, text=text, start=index, end=index)
        place: dict[str, Any] = {"word": text, "start": character, "end": character, "score": number}
        span = {"anyOf": [object_schema(entity_group=text, **place), object_schema(entity=tag, index=index, **place)]}
        lists = {"tags": tag, "words": word, "entities": entity, "spans": span}
        return object_schema(**{name: {"type": "array", "items": items} for name, items in lists.items()})

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        found = [f"{entity['text']} ({entity['type']})" for entity in answer["entities"]]
        return ", ".join(found) or " ".join(answer["tags"])


def _word_spans(alignment: WordAlignment, words: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each word that is part of an entity, with its tag."""
    for index, (word, (start, end)) in enumerate(zip(words, alignment.bounds, strict=True)):
        if word["tag"] != OUTSIDE:
            place = {"word": word["word"], "start": start, "end": end, "score": word["score"]}
            yield {"entity": word["tag"], "index": index, **place}
