"""The task: the entities of a text by tags of its words, and the relations of all pairs of them, from one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
    Row,
    RunSplit,
    Triple,
    object_schema,
)
from fastserve_text.base import TEXT, TextTask, sorted_labels, validate_text
from fastserve_text.losses import cross_entropy
from fastserve_text.relation_extraction.encoding import (
    EntityWords,
    RelationEncoder,
    entity_places,
    make_targets,
)
from fastserve_text.relation_extraction.pair_scores import PairScore, pair_loss, score_pairs
from fastserve_text.relation_extraction.records import normalize_relations, unify_record
from fastserve_text.relation_extraction.triple_scores import (
    DEFAULT_THRESHOLD,
    MIN_SCORE,
    RowStatistics,
    best_threshold,
    score_rows,
)
from fastserve_text.tagging import base
from fastserve_text.tagging.base import WordTask
from fastserve_text.tagging.tag_schemes import OUTSIDE
from fastserve_text.tagging.tagger import TaggedSpan, Tagger

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from fastserve_text.tagging.encoding import WordAlignment

    Matrix = np.ndarray[Any, Any]

ENTITY, RELATION = "entity:", "relation:"
"""Prefixes of the task's labels: the types of entities, and the relations."""
THRESHOLD = "threshold"
"""The name of the array in the calibration."""


@dataclass
class Options(base.Options):
    """``max_length`` is the number of tokens of a window, of which neighbours share ``stride``.

    A relation is answered if its probability is at least ``threshold``; by default that is the best one on the
    validation split. An answer has at most ``top_k`` relations, the likeliest. ``pair_width`` is the length of the
    vectors that are compared for each relation.
    """

    pair_width: int = 16
    threshold: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pair_width < 1:
            raise OptionError(f"task.pair_width must be at least 1, not {self.pair_width}")
        if self.threshold is not None and not MIN_SCORE <= self.threshold <= 1:
            raise OptionError(f"task.threshold must lie between {MIN_SCORE} and 1, not {self.threshold}")
        if self.top_k is not None and self.top_k < 1:
            raise OptionError(f"task.top_k must be at least 1, not {self.top_k}")


class RelationExtraction(WordTask):
    """Finds the entities of a text of any length and the relations between them, in one pass."""

    name: ClassVar[str] = "relation_extraction"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        TEXT,
        Column("entities", is_label=True, usual_names=("ner", "spans")),
        Column("relations", is_label=True, usual_names=("relation", "triples")),
    )
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "triple_f1": MetricSpec(unit="%"),
        "entity_f1": MetricSpec(unit="%"),
        "accuracy": MetricSpec(unit="%"),  # of words, of which a split has more than rows
    }
    target_names: ClassVar[tuple[str, ...]] = ("labels", "entity_places", "relations")
    model_computes_loss: ClassVar[bool] = False
    loss_options: ClassVar[frozenset[str]] = frozenset({"label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(comparison="regression"),)
    answer_view: ClassVar[AnswerView] = AnswerView(spans="entities", span_name="type", triples="triples")
    request_parameters: ClassVar[Mapping[str, str]] = {name: name for name in ("stride", THRESHOLD, "top_k")}
    has_triples: ClassVar[bool] = True
    is_calibrated: ClassVar[bool] = True
    unknown_labels: ClassVar[Literal["refused", "errors"]] = "errors"
    not_in_rows: ClassVar[frozenset[str]] = TextTask.not_in_rows | {"stride", "pair_width", THRESHOLD, "top_k"}

    # -- labels --------------------------------------------------------------------------------------

    def _select_labels(self, prefix: str) -> list[str]:
        return [label.removeprefix(prefix) for label in self.labels if label.startswith(prefix)]

    @cached_property
    def relations(self) -> Sequence[str]:
        """The relations, in the order of the model's outputs."""
        return self._select_labels(RELATION)

    @cached_property
    def tags(self) -> Sequence[str]:
        """The tags of words, in the order of the model's outputs."""
        return [OUTSIDE, *(f"{part}-{kind}" for kind in self._select_labels(ENTITY) for part in "BI")]

    @cached_property
    def _tagger(self) -> Tagger:
        return Tagger(self.tags)

    @property
    def threshold(self) -> float:
        """The least probability of a relation in an answer."""
        if self.options.threshold is not None:
            return float(self.options.threshold)
        return float(self.calibration.get(THRESHOLD, DEFAULT_THRESHOLD))

    # -- rows ----------------------------------------------------------------------------------------

    @override
    def split_record(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield "", unify_record(values)

    @override
    def check(self, row: Row) -> str | None:
        return validate_text(row) or normalize_relations(row)

    @override
    def collect_labels(self, rows: Sequence[Row]) -> list[str]:
        found = {label for row in rows for label in self.row_labels(row)}
        if not any(label.startswith(RELATION) for label in found):
            raise DataError(f"none of the {len(rows)} training rows has a relation")
        return [
            prefix + name
            for prefix in (ENTITY, RELATION)
            for name in sorted_labels({label.removeprefix(prefix) for label in found if label.startswith(prefix)})
        ]

    @override
    def row_labels(self, row: Row) -> set[str]:
        kinds = {ENTITY + kind for _, _, kind in row.get("entities") or ()}
        return kinds | {RELATION + name for _, _, name in row.get("relations") or ()}

    @override
    def stratify_key(self, row: Row) -> str:
        return " ".join(sorted({name for _, _, name in row["relations"]})[:1])

    @override
    def read_input(self, value: Any) -> Row:
        record = unify_record(value) if isinstance(value, Mapping) else {"text": value}
        return TextTask.read_input(self, {"text": record.get("text")})

    @override
    def make_rows(self, inputs: Sequence[Any], targets: Sequence[Any] | None = None) -> list[Row]:
        return TextTask.make_rows(self, inputs, targets)

    @override
    def texts(self, rows: Sequence[Row]) -> Iterator[str]:
        return TextTask.texts(self, rows)

    # -- the model and its batches -------------------------------------------------------------------

    @override
    def build(self, folder: Path) -> nn.Module:
        from fastserve_text.model_factory import build_and_describe

        width = range(self.options.pair_width)
        names = [f"{name}.{role}.{number}" for role in ("head", "tail") for name in self.relations for number in width]
        model, self.head_report = build_and_describe(folder, self.head, [*self.tags, *names])
        return model

    @override
    def encoder(self, folder: Path) -> Encoder:
        return RelationEncoder(self.prepare_tokenizer(folder), self.tags, self.relations)

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        arrays = super().collate(batch)
        if targets:
            arrays |= make_targets(batch, arrays["input_ids"].shape[1], self._first_tags)
        return arrays

    @cached_property
    def _first_tags(self) -> frozenset[int]:
        return frozenset(number for number, tag in enumerate(self.tags) if tag.startswith("B-"))

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        tags, pairs = self._split_outputs(outputs["logits"])
        loss = cross_entropy(tags, batch["labels"], options)
        width = self.options.pair_width
        return BatchLoss(
            loss.total + pair_loss(pairs, batch["entity_places"], batch["relations"], width), loss.denominator
        )

    def _split_outputs(self, outputs: Any) -> tuple[Any, Any]:
        """Return the logits of tags, and the vectors of pairs."""
        return outputs[..., : len(self.tags)], outputs[..., len(self.tags) :]

    # -- answers -------------------------------------------------------------------------------------

    @override
    def calibrate(self, run: RunSplit) -> Arrays:
        import numpy as np

        statistics = [one for outputs, batch in run("validation") for one in self.batch_statistics(outputs, batch)]
        return {THRESHOLD: np.asarray(best_threshold(list(self.join_windows(statistics))))}

    def _score_relations(
        self, alignment: WordAlignment, logits: Matrix, entities: Sequence[EntityWords], min_score: float
    ) -> list[PairScore]:
        """Return the relations between entities that are likely enough, the likeliest first."""
        room = self.options.layout.room(alignment.frame)
        places, pairs = entity_places(alignment, entities), self._split_outputs(logits)[1]
        found = score_pairs(pairs, places, self.options.pair_width, room, min_score)
        return sorted(found, key=lambda pair: -pair.score)

    def _find_entities(self, alignment: WordAlignment, logits: Matrix) -> tuple[list[str], list[TaggedSpan]]:
        """Return the tags of all words, and the entities that they mark."""
        tags, scores = self._tagger.choose(alignment, self._split_outputs(logits)[0])
        return tags, self._tagger.find_spans(alignment, tags, scores)

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        return [
            self._make_answer(encoded.decode_state, logits) for encoded, _, logits in self.merge_rows(outputs, batch)
        ]

    def _make_answer(self, alignment: WordAlignment, logits: Matrix) -> dict[str, Any]:
        _, spans = self._find_entities(alignment, logits)
        entities = [
            {"type": span.kind, "text": span.text, "start": span.start, "end": span.end, "score": span.score}
            for span in spans
        ]
        pairs = self._score_relations(alignment, logits, as_words(spans), self.threshold)[: self.options.top_k]
        relations: list[dict[str, Any]] = [
            {"relation": self.relations[pair.relation], "head": pair.head, "tail": pair.tail, "score": pair.score}
            for pair in pairs
        ]
        triples = [[spans[pair.head].text, self.relations[pair.relation], spans[pair.tail].text] for pair in pairs]
        return {"entities": entities, "relations": relations, "triples": triples}

    @override
    def triples(self, answer: Mapping[str, Any]) -> Sequence[Triple]:
        found = []
        for relation in answer["relations"]:
            head, tail = (answer["entities"][relation[name]] for name in ("head", "tail"))
            kinds = {"subject_type": head["type"], "object_type": tail["type"]}
            found.append(Triple(head["text"], relation["relation"], tail["text"], relation["score"], **kinds))
        return found

    # -- scores --------------------------------------------------------------------------------------

    @override
    def compare(self, alignment: Any, logits: Matrix, evidence: Sequence[Any]) -> RowStatistics:
        tags, spans = self._find_entities(alignment, logits)
        guessed = as_words(spans)
        true = {(alignment.entities[head], alignment.entities[tail], name) for head, tail, name in alignment.relations}
        candidates = [
            (pair.score, (guessed[pair.head], guessed[pair.tail], self.relations[pair.relation]) in true)
            for pair in self._score_relations(alignment, logits, guessed, MIN_SCORE)
        ]
        entities = frozenset(guessed), frozenset(alignment.entities)
        return RowStatistics(tags, alignment.tags, *entities, candidates, len(true))

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        return score_rows(list(self.join_windows(statistics)), self.threshold)

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return scores.get("triple_f1", scores.get("entity_f1", scores["accuracy"]))

    @override
    def answer_schema(self) -> dict[str, Any]:
        text, number, index = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
        character = {**index, "description": "counted in characters"}
        place = {**index, "description": "its number in the list of entities, from 0"}
        kind = {"enum": self._select_labels(ENTITY)}
        entity = object_schema(type=kind, text=text, start=character, end=character, score=number)
        relation = object_schema(relation={"enum": self.relations}, head=place, tail=place, score=number)
        triple = {"type": "array", "items": text, "minItems": 3, "maxItems": 3}
        lists = {"entities": entity, "relations": relation, "triples": triple}
        return object_schema(**{name: {"type": "array", "items": items} for name, items in lists.items()})

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        facts = [" | ".join(triple) for triple in answer["triples"]]
        return (
            "; ".join(facts) or ", ".join(f"{one['text']} ({one['type']})" for one in answer["entities"]) or "(nothing)"
        )


def as_words(spans: Sequence[TaggedSpan]) -> list[EntityWords]:
    """Return the words and types of spans."""
    return [EntityWords(span.first_word, span.end_word, span.kind) for span in spans]
