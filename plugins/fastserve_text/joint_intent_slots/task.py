"""The task: texts to windows of tokens; logits to a ranking of intents, slots, and whether the text is in scope."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
    RunSplit,
    TensorSpec,
    object_schema,
    softmax,
)
from fastserve_text.base import TEXT, sorted_labels
from fastserve_text.joint_intent_slots import calibration, out_of_scope
from fastserve_text.joint_intent_slots.encoding import IntentEncoder, Utterance, find_intent_place
from fastserve_text.joint_intent_slots.labels import INTENT, SLOT, LabelColumns
from fastserve_text.joint_intent_slots.loss import joint_loss
from fastserve_text.joint_intent_slots.metrics import METRICS, Verdict, compute_metrics
from fastserve_text.joint_intent_slots.out_of_scope import (
    Evidence,
    compute_margins,
    join_evidence,
    mean_evidence,
    to_probability,
)
from fastserve_text.joint_intent_slots.rows import normalize_row, prefer_words
from fastserve_text.sequence_task import LABEL_NAMES
from fastserve_text.tagging import base
from fastserve_text.tagging.base import WordTask
from fastserve_text.tagging.encoding import WordEncoder
from fastserve_text.tagging.tagger import Tagger

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Matrix = np.ndarray[Any, Any]

HIDDEN = "last_hidden_state"
LEARNING = (out_of_scope.AUTO, out_of_scope.TRAINED)
"""The methods with which training rows out of scope are learnt as a label of their own."""


@dataclass
class Options(base.Options):
    """How intents, slots and texts out of scope are learnt and answered.

    ``slot_weight`` is the weight of the slots of a text beside its intent. ``out_of_scope`` is the method: ``auto``,
    ``softmax``, ``energy``, ``mahalanobis``, ``trained`` or ``none``; ``out_of_scope_label`` is the intent of the rows
    that have none of the others. ``auto`` and ``trained`` learn such training rows as a label, other methods ignore
    them. ``in_scope_share`` of the validation rows in scope stay in scope. ``top_k`` intents are returned.
    """

    slot_weight: float = 1.0
    out_of_scope: str = out_of_scope.AUTO
    out_of_scope_label: str = "oos"
    in_scope_share: float = 0.98
    top_k: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (out_of_scope.AUTO, out_of_scope.NONE, *out_of_scope.METHODS)
        if self.out_of_scope not in known:
            raise OptionError(
                f"task.out_of_scope: '{self.out_of_scope}' is not a method{did_you_mean(self.out_of_scope, known)}"
            )
        if not 0 < self.in_scope_share <= 1:
            raise OptionError(f"task.in_scope_share must lie above 0 and be at most 1, not {self.in_scope_share}")
        if not 0 < self.slot_weight < float("inf"):
            raise OptionError(f"task.slot_weight must be a number above 0, not {self.slot_weight}")
        if self.top_k < 1:
            raise OptionError(f"task.top_k must be at least 1, not {self.top_k}")


class JointIntentSlots(WordTask):
    """Finds the intent of a text and its slots in one pass (Chen et al. 2019), and texts that have none of the intents.

    One layer scores intents and tags: those of the first token are the intents, those of each word its tags.
    """

    name: ClassVar[str] = "joint_intent_slots"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        TEXT,
        Column("intent", is_label=True, usual_names=("label", *LABEL_NAMES)),
        Column("slots", required=False, is_label=True, usual_names=("entities", "spans")),
        Column("tags", required=False, is_label=True, usual_names=("slot_tags", "slot_labels", "ner_tags")),
    )
    metrics: ClassVar[Mapping[str, MetricSpec]] = METRICS
    model_computes_loss: ClassVar[bool] = False
    loss_options: ClassVar[frozenset[str]] = frozenset({"class_weights", "label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(),)
    outputs: ClassVar[tuple[str, ...]] = ("logits", HIDDEN)
    is_calibrated: ClassVar[bool] = True
    request_parameters: ClassVar[Mapping[str, str]] = {name: name for name in ("stride", "top_k")}
    unknown_labels: ClassVar[Literal["refused", "errors"]] = "errors"
    not_in_rows: ClassVar[frozenset[str]] = frozenset(
        {"max_length", "stride", "slot_weight", "in_scope_share", "top_k"}
    )
    answer_view: ClassVar[AnswerView] = AnswerView("intent.name", "intents", "slots", span_name="slot")

    # -- labels --------------------------------------------------------------------------------------

    @cached_property
    def _columns(self) -> LabelColumns:
        return LabelColumns(self.labels, self.options.out_of_scope_label)

    @cached_property
    def _tagger(self) -> Tagger:
        return Tagger(list(self._columns.tags))

    @property
    def decides_scope(self) -> bool:
        """Whether the model was calibrated to tell texts out of scope."""
        return "threshold" in self.calibration

    # -- rows ----------------------------------------------------------------------------------------

    @override
    def split_record(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield "", prefer_words(values)

    @override
    def check(self, row: Row) -> str | None:
        try:
            normalize_row(row)
        except ValueError as error:
            return str(error)
        return None

    @override
    def why_unlikely(self, rows: Sequence[Row]) -> str | None:
        return None if any(row.get("slots") or row.get("tags") for row in rows) else "no row has slots"

    @override
    def collect_labels(self, rows: Sequence[Row]) -> list[str]:
        counts: Counter[str] = Counter()
        tags: set[str] = set()
        for row in rows:
            counts[row["intent"]] += 1
            tags.update(row.get("tags", ()))
        outside = self.options.out_of_scope_label
        inside = [intent for intent in counts if intent != outside]
        if not inside:
            raise DataError(
                f"all {counts.total()} training rows are out of scope: they have the intent '{outside}' "
                "(task.out_of_scope_label)"
            )
        if len(inside) < 2:
            raise DataError(f"the training rows have one intent, '{inside[0]}': two are needed")
        if len(inside) > counts.total() / 2 and counts.total() > 20:
            raise DataError(
                f"{len(inside)} different intents in {counts.total()} training rows: is data.columns.intent the right "
                "column?"
            )
        if self.options.out_of_scope not in LEARNING:
            del counts[outside]  # rows that the model learns no intent from
        elif self.options.out_of_scope == out_of_scope.TRAINED and outside not in counts:
            raise DataError(
                f"task.out_of_scope=trained needs training rows with the intent '{outside}' (task.out_of_scope_label)"
            )
        return [INTENT + intent for intent in sorted_labels(set(counts))] + [SLOT + tag for tag in sorted_labels(tags)]

    @override
    def row_labels(self, row: Row) -> set[str]:
        intents = {row["intent"]} - {None, self.options.out_of_scope_label}
        return {INTENT + intent for intent in intents} | {SLOT + tag for tag in row.get("tags") or ()}

    @override
    def stratify_key(self, row: Row) -> str:
        return str(row["intent"])

    @override
    def make_rows(self, inputs: Sequence[Any], targets: Sequence[Any] | None = None) -> list[Row]:
        if targets is None and not all(isinstance(row, Mapping) and "intent" in row for row in inputs):
            raise DataError("labels are missing: give an intent for each input")
        if targets is None:
            return [dict(prefer_words(row)) for row in inputs]
        if len(targets) != len(inputs):
            raise DataError(f"{len(inputs)} inputs but {len(targets)} labels: one each is needed")
        given = [target if isinstance(target, Mapping) else {"intent": target} for target in targets]
        rows = [value if isinstance(value, Mapping) else {"text": value} for value in inputs]
        return [{**prefer_words(row), **target} for row, target in zip(rows, given, strict=True)]

    # -- the model and its batches -------------------------------------------------------------------

    @override
    def encoder(self, folder: Path) -> Encoder:
        tokenizer = self.prepare_tokenizer(folder)
        self._place = find_intent_place(self.frame, folder)
        return IntentEncoder(WordEncoder(tokenizer, self._columns.tags), self._place, self._columns)

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        return joint_loss(
            outputs["logits"], batch["labels"], len(self._columns.intents), self.options.slot_weight, options
        )

    # -- answers -------------------------------------------------------------------------------------

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        answers = []
        for encoded, rows, logits in self.merge_rows(outputs, batch):
            evidence = self._find_evidence(outputs, rows, min(len(encoded), self.options.max_length))
            answers.append(self._make_answer(encoded.decode_state, logits, evidence))
        return answers

    def _find_evidence(self, outputs: Arrays, rows: slice, length: int) -> Evidence:
        """Return the outputs of the token of the intent, as the mean of the windows of one row."""
        place = self._place if self._place >= 0 else length + self._place
        vectors = outputs[HIDDEN][rows, place].mean(axis=0, keepdims=True) if HIDDEN in outputs else None
        return Evidence(outputs["logits"][rows, place].mean(axis=0, keepdims=True), vectors)

    def _make_answer(self, utterance: Utterance, logits: Matrix, evidence: Evidence) -> dict[str, Any]:
        names, probabilities = self._columns.names, softmax(evidence.logits[0, self._columns.inside]).tolist()
        order = sorted(range(len(names)), key=lambda number: -probabilities[number])[: self.options.top_k]
        ranking = [{"name": names[number], "score": probabilities[number]} for number in order]
        answer: dict[str, Any] = {"intent": ranking[0], "intents": ranking}
        if (margin := self._find_margin(evidence)) is not None:
            answer["in_scope"] = to_probability(margin)
        tags, scores = self._tagger.choose(utterance, self._tag_logits(logits))
        answer["slots"] = [
            {"slot": span.kind, "value": span.text, "start": span.start, "end": span.end, "score": span.score}
            for span in self._tagger.find_spans(utterance, tags, scores)
        ]
        return answer

    def _tag_logits(self, logits: Matrix) -> Matrix:
        columns: Matrix = logits[:, list(self._columns.tags.values())]
        return columns

    def _find_margin(self, evidence: Evidence) -> float | None:
        if not self.decides_scope:
            return None
        return float(compute_margins(evidence, self._columns, self.calibration)[0])

    # -- scores --------------------------------------------------------------------------------------

    @override
    def read_evidence(self, outputs: Arrays, row: int, encoded: Encoded) -> Evidence:
        return self._find_evidence(outputs, slice(row, row + 1), len(encoded))

    @override
    def compare(self, alignment: Any, logits: Matrix, evidence: Sequence[Any]) -> Verdict:
        utterance: Utterance = alignment
        joined = mean_evidence(list(evidence))
        guess = self._columns.names[int(joined.logits[0, self._columns.inside].argmax())]
        tags, found = self._tagger.mark(utterance.tags), list[str]()
        if tags:
            found = self._tagger.mark(self._tagger.choose(utterance, self._tag_logits(logits))[0])
        intent = None if utterance.intent == self.options.out_of_scope_label else utterance.intent
        return Verdict(intent, guess, tags, found, self._find_margin(joined))

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        return compute_metrics(list(self.join_windows(statistics)))

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return scores.get("whole", scores.get("intent", 0.0))

    # -- texts out of scope --------------------------------------------------------------------------

    @override
    def calibrate(self, run: RunSplit) -> Arrays:
        options, columns = self.options, self._columns
        methods = calibration.list_methods(options.out_of_scope, columns)
        if not methods:
            return {}
        has_distance = out_of_scope.MAHALANOBIS in methods
        centers = calibration.make_centers(self._collect(run("train")), columns) if has_distance else {}
        validation = self._collect(run("validation"))
        return calibration.choose(
            methods, validation, columns, options.out_of_scope_label, options.in_scope_share, centers
        )

    def _collect(self, batches: Iterator[tuple[Arrays, Sequence[Encoded]]]) -> Iterator[calibration.LabelledEvidence]:
        """Yield the evidence of batches with the intents of their rows; a window counts as a row."""
        for outputs, batch in batches:
            states = [encoded.decode_state for encoded in batch]
            utterances = [state if isinstance(state, Utterance) else state[0] for state in states]
            found = [self.read_evidence(outputs, row, encoded) for row, encoded in enumerate(batch)]
            yield calibration.LabelledEvidence(join_evidence(found), [utterance.intent for utterance in utterances])

    # -- how answers are shown -----------------------------------------------------------------------

    @override
    def answer_schema(self) -> dict[str, Any]:
        text, score = {"type": "string"}, {"type": "number", "minimum": 0, "maximum": 1}
        character = {"type": "integer", "minimum": 0, "description": "counted in characters"}
        intent = object_schema(name={"enum": self._columns.names}, score=score)
        slot = object_schema(slot=text, value=text, start=character, end=character, score=score)
        ranking = {"type": "array", "items": intent, "maxItems": self.options.top_k}
        schema = object_schema(intent=intent, intents=ranking, slots={"type": "array", "items": slot})
        schema["properties"]["in_scope"] = score
        return schema

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        parts = [f"{answer['intent']['name']}\t{answer['intent']['score']:.3f}"]
        if "in_scope" in answer:
            parts.append(f"{'in' if answer['in_scope'] >= 0.5 else 'out of'} scope ({answer['in_scope']:.3f})")
        if answer["slots"]:
            parts.append(", ".join(f"{slot['slot']}={slot['value']}" for slot in answer["slots"]))
        return "\t".join(parts)

    @override
    def answer_columns(self, answer: Mapping[str, Any]) -> Row:
        intent = answer["intent"]
        rest = {name: value for name, value in answer.items() if name != "intent"}
        return super().answer_columns({"intent": intent["name"], "intent_score": intent["score"], **rest})

    @override
    def agrees(self, answer: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Return whether the intents, the decisions on the scope and the slots are the same."""
        first, second = (
            (
                found["intent"]["name"],
                found.get("in_scope", 1.0) >= 0.5,
                [(slot["slot"], slot["start"], slot["end"]) for slot in found["slots"]],
            )
            for found in (answer, other)
        )
        return first == second

    @override
    def output_tensors(self) -> list[TensorSpec]:
        slots = self.answer_schema()["properties"]["slots"]
        scope = [TensorSpec("in_scope", "FP32")] if self.decides_scope else []
        return [TensorSpec("intent"), TensorSpec("score", "FP32"), *scope, TensorSpec("slots", json_schema=slots)]

    @override
    def tensor_values(self, name: str, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        if name == "slots":
            return super().tensor_values(name, [answer["slots"] for answer in answers])
        if name == "in_scope":
            return [answer["in_scope"] for answer in answers]
        return [answer["intent"]["name" if name == "intent" else "score"] for answer in answers]
