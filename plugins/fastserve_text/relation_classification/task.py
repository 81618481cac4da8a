"""The task: texts with two entities to token ids, logits to the relation between them and to triples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.errors import DataError, OptionError, did_you_mean
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
    TensorSpec,
    Triple,
    object_schema,
    read_label,
    softmax,
)
from fastserve_text.base import TEXT, TextOptions, TextTask, sorted_labels, validate_text
from fastserve_text.confidence import contradict_labels
from fastserve_text.losses import cross_entropy
from fastserve_text.relation_classification.encoding import SIGNS, EntityPair, PairEncoder, choose_signs
from fastserve_text.relation_classification.entity_marks import MARKS, normalize_entities, unify_record
from fastserve_text.relation_classification.relation_metrics import macro_f1, micro_f1, parse_relation
from fastserve_text.tokenization import load_tokenizer, token_id

if TYPE_CHECKING:
    from torch import Tensor, nn

USUAL_NO_RELATION = ("Other", "no_relation", "NA")
"""Usual labels of two entities without a relation."""
SPAN_TITLE = "or its characters, as [0, 4] (for a text without marks)"


@dataclass
class Options(TextOptions):
    """``max_length`` is in tokens; longer texts are cut around the two entities.

    ``no_relation`` is the label of two entities without a relation, which metrics leave out. By default it is
    ``Other``, ``no_relation`` or ``NA``, if the data has one of them. An answer has the ``top_k`` likeliest relations.
    """

    no_relation: str | None = None
    top_k: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k < 1:
            raise OptionError(f"task.top_k must be at least 1, not {self.top_k}")


class RelationClassification(TextTask):
    """Names the relation between two entities of a text.

    A sign before and behind each entity marks it, and the relation is read at the last one (after Baldini Soares et al.
    2019, and Zhou and Chen 2022).
    """

    name: ClassVar[str] = "relation_classification"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        Column(TEXT.name, title=f"Text, in which {MARKS} mark two entities", usual_names=TEXT.usual_names),
        Column("head", required=False, title=f"First entity, {SPAN_TITLE}", usual_names=("e1", "subj", "subject")),
        Column("tail", required=False, title=f"Second entity, {SPAN_TITLE}", usual_names=("e2", "obj", "object")),
        Column("relation", is_label=True, usual_names=("label", "labels", "rel", "predicate", "关系")),
    )
    head: ClassVar[str] = "ForTokenClassification"
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "macro_f1": MetricSpec(unit="%"),
        "micro_f1": MetricSpec(unit="%"),
        "accuracy": MetricSpec(unit="%", is_share_of_rows=True),
    }
    model_computes_loss: ClassVar[bool] = False
    loss_options: ClassVar[frozenset[str]] = frozenset({"class_weights", "label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(),)
    answer_view: ClassVar[AnswerView] = AnswerView(headline="relation", scores="scores", triples="triples")
    request_parameters: ClassVar[Mapping[str, str]] = {"top_k": "top_k"}
    has_triples: ClassVar[bool] = True

    # -- rows ----------------------------------------------------------------------------------------

    @override
    def split_record(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield "", unify_record(values)

    @override
    def check(self, row: Row) -> str | None:
        if fault := validate_text(row) or normalize_entities(row):
            return fault
        try:
            row["relation"] = read_label(row.get("relation"))
        except ValueError as error:
            return f"'relation' {error}"
        return None

    @override
    def collect_labels(self, rows: Sequence[Row]) -> list[str]:
        labels = sorted_labels({row["relation"] for row in rows})
        if len(labels) < 2:
            raise DataError(f"all {len(rows)} training rows have the relation '{labels[0]}': two are needed")
        if len(labels) > len(rows) / 2 and len(rows) > 20:
            raise DataError(
                f"{len(labels)} different relations in {len(rows)} training rows: is data.columns.relation the right "
                "column?"
            )
        self.find_no_relation(labels)
        return labels

    def find_no_relation(self, labels: Sequence[str]) -> str | None:
        """Return the label of two entities without a relation, if there is one.

        Raises:
            DataError: The data does not have the one of the option, or several that may be meant.
        """
        chosen = self.options.no_relation
        if chosen is not None and chosen not in labels:
            near = did_you_mean(chosen, labels)
            raise DataError(f"task.no_relation: no training row has the relation '{chosen}'{near}")
        usual = [label for label in USUAL_NO_RELATION if label in labels]
        if chosen is None and len(usual) > 1:
            listed = " and ".join(f"'{label}'" for label in usual)
            raise DataError(f"{listed} may both stand for no relation: task.no_relation=NAME selects one")
        return chosen if chosen is not None else next(iter(usual), None)

    @override
    def stratify_key(self, row: Row) -> str:
        return str(row["relation"])

    @override
    def read_input(self, value: Any) -> Row:
        record = unify_record(value) if isinstance(value, Mapping) else {"text": value}
        row = {name: record.get(name) for name in ("text", "head", "tail")}
        if fault := validate_text(row) or normalize_entities(row):
            raise DataError(f"an input cannot be used: {fault}")
        return row

    @override
    def texts(self, rows: Sequence[Row]) -> Iterator[str]:
        return (" ".join((row["text"], *SIGNS)) for row in rows)

    # -- the model and its batches -------------------------------------------------------------------

    @override
    def build(self, folder: Path) -> nn.Module:
        model = super().build(folder)
        none = self.find_no_relation(self.labels)
        meaning = f"'{none}' stands for no relation" if none is not None else "no label stands for no relation"
        self.head_report = "; ".join(filter(None, (self.head_report, f"{meaning} (task.no_relation)")))
        return model

    @override
    def check_model(self, folder: Path) -> None:
        super().check_model(folder)
        self._choose_signs(folder)

    def _choose_signs(self, folder: Path) -> tuple[str, str]:
        tokenizer = load_tokenizer(folder, self.options.max_length)
        return choose_signs(tokenizer, token_id(folder, tokenizer, "unk_token"))

    @override
    def encoder(self, folder: Path) -> Encoder:
        tokenizer = self.prepare_padding(folder)
        tokenizer.no_truncation()
        numbers = {label: number for number, label in enumerate(self.labels)}
        target = partial(_find_target, numbers)
        return PairEncoder(tokenizer, self._choose_signs(folder), self.options.max_length, target)

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        return cross_entropy(outputs["logits"], batch["labels"], options)

    # -- answers -------------------------------------------------------------------------------------

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        return [
            self._make_answer(encoded.decode_state, softmax(logits[encoded.decode_state.place]).tolist())
            for logits, encoded in zip(outputs["logits"], batch, strict=True)
        ]

    def _make_answer(self, pair: EntityPair, probabilities: Sequence[float]) -> dict[str, Any]:
        scores = dict(zip(self.labels, probabilities, strict=True))
        best = sorted(scores, key=scores.__getitem__, reverse=True)[: self.options.top_k]
        entities = {
            name: {"text": pair.text[start:end], "start": start, "end": end}
            for name, (start, end) in (("head", pair.head), ("tail", pair.tail))
        }
        answer = {"relation": best[0], "score": scores[best[0]], "scores": scores, **entities}
        if self.options.top_k > 1:
            answer["relations"] = [{"relation": label, "score": scores[label]} for label in best]
        return {**answer, "triples": self._make_triples(best[0], entities)}

    def _make_triples(self, label: str, entities: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
        """Return the triple of a label, if it stands for a relation."""
        if label == self.find_no_relation(self.labels):
            return []
        relation = parse_relation(label)
        subject, object_ = ("tail", "head") if relation.is_reversed else ("head", "tail")
        return [[entities[subject]["text"], relation.name, entities[object_]["text"]]]

    @override
    def triples(self, answer: Mapping[str, Any]) -> Sequence[Triple]:
        return [Triple(subject, name, object_, answer["score"]) for subject, name, object_ in answer["triples"]]

    @override
    def find_doubts(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Doubt | None]:
        places = [encoded.decode_state.place for encoded in batch]
        probabilities = [softmax(row[place]) for row, place in zip(outputs["logits"], places, strict=True)]
        targets = [encoded.target and int(encoded.target[place]) for encoded, place in zip(batch, places, strict=True)]
        return contradict_labels(probabilities, targets, self.labels)

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        statistics = []
        for logits, encoded in zip(outputs["logits"], batch, strict=True):
            place = encoded.decode_state.place
            statistics.append((int(logits[place].argmax()), int(encoded.target[place])))
        return statistics

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        guesses, truth = ([self.labels[number] for number in column] for column in zip(*statistics, strict=True))
        none = self.find_no_relation(self.labels)
        scores = {"macro_f1": macro_f1(guesses, truth, none), "micro_f1": micro_f1(guesses, truth, none)}
        accuracy = sum(guess == label for guess, label in zip(guesses, truth, strict=True)) / len(truth)
        return {name: score for name, score in scores.items() if score is not None} | {"accuracy": accuracy}

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return scores.get("macro_f1", scores["accuracy"])

    @override
    def answer_schema(self) -> dict[str, Any]:
        text, number, label = {"type": "string"}, {"type": "number"}, {"enum": self.labels}
        character = {"type": "integer", "minimum": 0, "description": "counted in characters of the text without marks"}
        entity = object_schema(text=text, start=character, end=character)
        scores = object_schema(**dict.fromkeys(self.labels, number))
        triples = {"type": "array", "items": {"type": "array", "items": text, "minItems": 3, "maxItems": 3}}
        properties: dict[str, Any] = {
            "relation": label,
            "score": number,
            "scores": scores,
            "head": entity,
            "tail": entity,
        }
        if self.options.top_k > 1:
            properties["relations"] = {"type": "array", "items": object_schema(relation=label, score=number)}
        return object_schema(**properties, triples=triples)

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        return f"{answer['relation']}\t{answer['score']:.3f}\t{answer['head']['text']}\t{answer['tail']['text']}"

    # -- serving -------------------------------------------------------------------------------------

    @override
    def warmup_inputs(self) -> list[Any]:
        return [{"text": f"<e1>A</e1> first <e2>sentence</e2>. {filler}"} for filler in ("", "A longer one. " * 30)]

    @override
    def output_tensors(self) -> list[TensorSpec]:
        scores = [TensorSpec("score", "FP32"), TensorSpec("scores", "FP32", (-1, len(self.labels)))]
        return [TensorSpec("relation"), *scores, *super().output_tensors()]

    @override
    def tensor_values(self, name: str, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        if name == "scores":
            return [answer["scores"][label] for answer in answers for label in self.labels]
        if name == "answer":
            return super().tensor_values(name, answers)
        return [answer[name] for answer in answers]


def _find_target(numbers: Mapping[str, int], row: Row) -> int | None:
    """Return the number of a row's label, ``UNLABELLED`` without one, ``None`` if it has no column of labels."""
    if "relation" not in row:
        return None
    return UNLABELLED if row["relation"] is None else numbers[row["relation"]]
