"""The task: the next item of a user, from the items before it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.artifacts import read_config
from fastserve_core.errors import DataError, ModelError, OptionError
from fastserve_core.tasks import (
    IGNORE_INDEX,
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
    Route,
    Row,
    Task,
    TensorSpec,
    object_schema,
)
from fastserve_recommendation.baselines import Baselines
from fastserve_recommendation.encoding import HistoryEncoder, collate, mask_items
from fastserve_recommendation.interactions import (
    COLUMNS,
    ITEM,
    USER,
    holds_ids,
    normalize_history,
    normalize_interaction,
    split_interactions,
)
from fastserve_recommendation.item_texts import hash_item_texts, read_item_texts, report_coverage
from fastserve_recommendation.ranking import METRICS, RowRanks, best_items, probabilities, rank_target, score_ranks
from fastserve_recommendation.sequences import ITEMS, collect_histories, iterate_items, make_splits, report_reach
from fastserve_recommendation.text_vectors import find_embedder, write_vectors
from fastserve_recommendation.vocabulary import FIRST_ITEM, TABLE, Vocabulary, has_vocabulary

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastserve_core.config import ModelSpec

COUNT = "k"
VALIDATION = "validation"
TRAINING = {"epochs": 9, "batch_size": 256, "lr": 1.5e-3, "warmup_ratio": 0.05, "weight_decay": 0.0}
"""Options of the trainer for a model from scratch, as in the experiment."""
MODEL, POPULARITY = "model", "popularity"
"""The basis of an answer; the second if the model knows no item of the history."""


@dataclass
class Options:
    """``max_length`` is the number of items that the model reads, the last ones of a history.

    ``k`` is the number of items in an answer. With ``filter_seen``, answers and scores leave out the items of the
    history. At most ``validation_users`` users have a validation row. ``negatives`` is the number of items that a
    training step compares with those of the batch; 0 stands for all items. ``mask_ratio`` is the share of the items
    that a model which sees both sides learns to restore. ``dropout`` is that of layers and attention.

    ``items`` is a file of items with texts, of its ``item_columns``, by default all. ``embedder`` is the run or the
    artifact that makes their vectors. A training step knows the share ``text_only`` of its items by their texts alone.
    """

    max_length: int = 50
    k: int = 10
    filter_seen: bool = True
    validation_users: int = 4000
    negatives: int = 4096
    mask_ratio: float = 0.3
    dropout: float = 0.3
    items: str | None = None
    item_columns: list[str] = field(default_factory=list)
    embedder: str | None = None
    text_only: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("max_length", 2), (COUNT, 1), ("validation_users", 1), ("negatives", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"task.{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"task.dropout must be at least 0 and below 1, not {self.dropout}")
        if not 0 < self.mask_ratio < 1:
            raise OptionError(f"task.mask_ratio must lie between 0 and 1, not {self.mask_ratio}")
        if not 0 <= self.text_only < 1:
            raise OptionError(f"task.text_only must be at least 0 and below 1, not {self.text_only}")
        if (self.items is None) != (self.embedder is None):
            raise OptionError("task.items and task.embedder go together: texts of items, and a model of their vectors")


class NextItem(Task):
    """Recommends items to a user, known or new, by the items of the history."""

    name: ClassVar[str] = "next_item"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = COLUMNS
    metrics: ClassVar[Mapping[str, MetricSpec]] = METRICS
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = ()
    answer_view: ClassVar[AnswerView] = AnswerView(headline="basis", scores="items", score_name="id")
    request_parameters: ClassVar[Mapping[str, str]] = {COUNT: COUNT, "top_k": COUNT, "filter_seen": "filter_seen"}
    training_options: ClassVar[frozenset[str]] = frozenset({"negatives", "mask_ratio", "dropout", "text_only"})
    compared_tables: ClassVar[tuple[str, ...]] = (TABLE,)
    joined_columns: ClassVar[tuple[str, ...]] = (USER, ITEM)
    not_in_rows: ClassVar[frozenset[str]] = training_options | {"max_length", COUNT}

    _vocabulary: Vocabulary
    _is_causal: bool = True

    @property
    def request_columns(self) -> tuple[Column, ...]:
        """The history, and how many items to recommend."""
        return (Column(ITEMS, title="Items of the history, the last one at the end"),
                Column(COUNT, required=False, title="How many to recommend"))  # fmt: skip

    # -- rows ----------------------------------------------------------------------------------------

    @override
    def hash_files(self) -> Mapping[str, str]:
        if self.options.items is None:
            return {}
        return {"items": hash_item_texts(self.options.items), "embedder": find_embedder(self.options.embedder).digest}

    @override
    def split_record(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return split_interactions(values)

    @override
    def check(self, row: Row) -> str | None:
        return normalize_interaction(row)

    @override
    def make_splits(
        self, splits: Mapping[str, Sequence[Row]], report: Callable[[str], None]
    ) -> Mapping[str, Iterable[Row]]:
        rows = make_splits(splits, self.options.validation_users, report)
        known = set(iterate_items(rows["train"]))
        if self.options.items is not None:
            texts = read_item_texts(self.options.items, self.options.item_columns, report)
            report_coverage(texts, known, report)
            known.update(texts)
        report_reach(rows, known, report)
        baselines = Baselines(rows["train"], self.options.filter_seen)
        return {
            split: split_rows if split == "train" else baselines.add_ranks(split_rows)
            for split, split_rows in rows.items()
        }

    @override
    def join_rows(self, rows: Iterable[Row], report: Callable[[str], None]) -> Iterator[Row]:
        found = collect_histories(rows)
        for message in found.describe("input"):
            report(message)
        yield from ({USER: user, ITEMS: items} for user, items in found.items.items())

    @override
    def read_input(self, value: Any) -> Row:
        record = value if isinstance(value, Mapping) else parse_request(value)
        if ITEMS not in record:
            raise DataError(
                f"an input cannot be used: '{ITEMS}' is missing; give one row for each user, with the list of the ids "
                "of the history"
            )
        try:
            row: Row = {ITEMS: normalize_history(record[ITEMS])}
        except ValueError as error:
            raise DataError(f"an input cannot be used: '{ITEMS}' {error}") from error
        if (count := record.get(COUNT)) not in (None, ""):
            row[COUNT] = read_count(count)
        return row

    # -- a first look at a file ----------------------------------------------------------------------

    @override
    def recognizes_column(self, column: Column, values: Sequence[Any]) -> bool:
        return False

    @override
    def why_unlikely(self, rows: Sequence[Row]) -> str | None:
        repeated = holds_ids([row[USER] for row in rows])
        return None if repeated else "no user has two items"

    @override
    def propose(self, rows: Sequence[Row]) -> Proposal:
        return Proposal(model="sasrec", notes=("sasrec learns a table of the items from scratch",), training=TRAINING)

    # -- the model -----------------------------------------------------------------------------------

    @override
    def init_from_scratch(self, spec: ModelSpec, rows: Sequence[Row], folder: Path) -> None:
        from fastserve_recommendation.model import write_untrained

        texts: dict[str, str] = {}
        if self.options.items is not None:
            texts = read_item_texts(self.options.items, self.options.item_columns, lambda _: None)
        vocabulary = Vocabulary.learn(iterate_items(rows), spec.vocab_size, texts)
        write_untrained(spec, vocabulary, folder)
        if texts:
            write_vectors(folder, vocabulary, texts, self.options.embedder)

    @override
    def build(self, folder: Path) -> nn.Module:
        from fastserve_recommendation.model import build_model

        options = self.options
        return build_model(folder, options.negatives, options.dropout, options.text_only)

    @override
    def finish(self, model: nn.Module) -> nn.Module:
        from fastserve_recommendation.text_table import fold_texts

        fold_texts(model)
        return model

    @override
    def check_model(self, folder: Path) -> None:
        if not has_vocabulary(folder):
            raise ModelError(f"{folder} has no vocabulary of items: choose model=sasrec or model=bert4rec")
        most = int(read_config(folder).get("max_position_embeddings", 0))
        if self.options.max_length > most:
            raise ModelError(f"task.max_length={self.options.max_length}, but the model reads {most} items at most")

    @override
    def unknown_share(self, folder: Path, rows: Sequence[Row]) -> float:
        known = Vocabulary.load(folder).numbers
        items = [item for row in rows for item in row[ITEMS]]
        return sum(item not in known for item in items) / max(len(items), 1)

    @override
    def accepts_model(self, architecture: str) -> bool:
        return architecture == "ElectraModel"

    # -- batches -------------------------------------------------------------------------------------

    @override
    def encoder(self, folder: Path) -> Encoder:
        self._vocabulary = Vocabulary.load(folder)
        self._is_causal = bool(read_config(folder).get("is_decoder"))
        return HistoryEncoder(self._vocabulary, self.options.max_length, self._is_causal)

    @override
    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        if self._is_causal or seed == VALIDATION:
            return encoded
        return mask_items(encoded, seed, self.options.mask_ratio)

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        return collate(batch, targets)

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        return BatchLoss(outputs["loss"], int((batch["labels"] != IGNORE_INDEX).sum()))

    # -- answers -------------------------------------------------------------------------------------

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        return [self._answer(scores, example) for scores, example in zip(outputs["logits"], batch, strict=True)]

    def _answer(self, scores: Any, example: Encoded) -> dict[str, Any]:
        state, ids = example.decode_state, self._vocabulary.ids
        count = self.options.k if state.count is None else state.count
        if not state.seen:
            shares = self._vocabulary.shares[:count].tolist()
            return self._format(ids[:count], shares, state.unknown, POPULARITY)
        best = best_items(scores, count, state.seen if self.options.filter_seen else ())
        found = [ids[number - FIRST_ITEM] for number in best]
        return self._format(found, probabilities(scores, best), state.unknown, MODEL)

    @staticmethod
    def _format(ids: Sequence[str], scores: Sequence[float], unknown: Sequence[str], basis: str) -> dict[str, Any]:
        items = [{"id": item, "score": score} for item, score in zip(ids, scores, strict=True)]
        return {"items": items, "unknown": list(unknown), "basis": basis}

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        hidden = self.options.filter_seen
        return [
            RowRanks(
                rank_target(scores, example.target, example.decode_state.seen if hidden else ()),
                example.decode_state.ranks,
            )
            for scores, example in zip(outputs["logits"], batch, strict=True)
        ]

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        return score_ranks(statistics)

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return scores["ndcg10"]

    @override
    def answer_schema(self) -> dict[str, Any]:
        item = object_schema(
            id={"type": "string"}, score={"type": "number", "description": "probability among all items"}
        )
        basis = {
            "enum": [MODEL, POPULARITY],
            "description": "popularity if no item of the history is known: scores are shares of the training data then",
        }
        return object_schema(
            items={"type": "array", "items": item, "description": "the best one first"},
            unknown={"type": "array", "items": {"type": "string"}, "description": "ids that the model does not know"},
            basis=basis,
        )

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        items = ", ".join(f"{item['id']} {item['score']:.4f}" for item in answer["items"]) or "(nothing)"
        notes = [f"skipped {', '.join(answer['unknown'])}"] if answer["unknown"] else []
        notes += ["by popularity: no known item"] if answer["basis"] == POPULARITY else []
        return f"{items} ({'; '.join(notes)})" if notes else items

    @override
    def answer_columns(self, answer: Mapping[str, Any]) -> Row:
        """Return the ids and their scores as two lists of a table."""
        recommended, scores = ([item[name] for item in answer["items"]] for name in ("id", "score"))
        rest = {name: value for name, value in answer.items() if name != "items"}
        rounded = [round(score, 6) for score in scores]
        return super().answer_columns({"recommended": recommended, "scores": rounded, **rest})

    @override
    def agrees(self, answer: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Return whether the best item is the same."""
        return [item["id"] for item in answer["items"][:1]] == [item["id"] for item in other["items"][:1]]

    # -- serving -------------------------------------------------------------------------------------

    @override
    def warmup_inputs(self) -> list[Any]:
        # the ids of the model's items are not known before its encoder is made
        return [{ITEMS: []}]

    @override
    def output_tensors(self) -> list[TensorSpec]:
        return [TensorSpec("answer", json_schema=self.answer_schema())]

    @override
    def routes(self, folder: Path) -> Sequence[Route]:
        from fastserve_recommendation.routes import Recommend

        return (Recommend(),)


def parse_request(value: Any) -> Mapping[str, Any]:
    """Return the fields of an input that is not a mapping: an object as JSON, as on a command line, or a history."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return dict(json.loads(value))
        except ValueError:
            raise DataError(f"an input cannot be used: it is not valid JSON: {value[:40]}") from None
    return {ITEMS: value}


def read_count(value: Any) -> int:
    """Return the number of items to recommend; raises ``DataError`` if it is not a whole number of at least 1."""
    try:
        count = int(str(value))
    except ValueError:
        count = 0
    if count < 1 or isinstance(value, bool):
        raise DataError(f"an input cannot be used: '{COUNT}' must be a whole number of at least 1, not {value!r}")
    return count
