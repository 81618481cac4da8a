"""A tag for every word: named entities, slots, parts of speech."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.errors import DataError
from fastserve_core.tasks import (
    IGNORE_INDEX,
    UNLABELLED,
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
    read_label,
    read_words,
)
from fastserve_text import text_classification
from fastserve_text.base import TEXT, TextTask, sorted_labels
from fastserve_text.losses import cross_entropy
from fastserve_text.tokenization import load_tokenizer, pad_id, softmax

if TYPE_CHECKING:
    from torch import Tensor


OUTSIDE = "O"
"""The tag of a word that belongs to no entity, and of words that the model did not read."""


@dataclass
class Options(text_classification.Options):
    """``max_length`` is in tokens, of which a word may have several; words beyond it get the tag ``O``."""


@dataclass(frozen=True)
class WordAlignment:
    """What decoding needs: the words, and which token is the first of which word."""

    words: Sequence[str]
    first: Mapping[int, int]
    tags: Sequence[str]


class TokenClassification(TextTask):
    """Labels every word of a text, and groups the labels into entities."""

    name: ClassVar[str] = "token_classification"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        Column("tokens", usual_names=("words",)),
        Column("tags", is_label=True, usual_names=("ner_tags", "labels", "ner")),
    )
    head: ClassVar[str] = "ForTokenClassification"
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "f1": MetricSpec(unit="%"),
        "accuracy": MetricSpec(unit="%"),  # of words, of which a split has more than rows
    }
    model_computes_loss: ClassVar[bool] = False
    loss_options: ClassVar[frozenset[str]] = frozenset({"class_weights", "label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(),)

    @override
    @property
    def request_columns(self) -> tuple[Column, ...]:
        return (TEXT,)  # which is split into words

    @override
    def check(self, row: Row) -> str | None:
        for name in ("tokens", "tags"):
            try:
                row[name] = read_words(row.get(name))
            except ValueError as error:
                return f"'{name}' {error}"
        row["tags"] = [read_label(tag) for tag in row["tags"]]
        if len(row["tokens"]) != len(row["tags"]):
            return f"{len(row['tokens'])} tokens but {len(row['tags'])} tags"
        return None

    @override
    def collect_labels(self, rows: Sequence[Row]) -> list[str]:
        found = {tag for row in rows for tag in row["tags"]}
        if len(found) < 2:
            raise DataError(f"all tags of the training rows are '{next(iter(found))}': two are needed")
        return sorted_labels(found)

    @override
    def stratify_key(self, row: Row) -> str:
        return " ".join(sorted({tag for tag in row["tags"] if tag != OUTSIDE})[:1])

    @override
    def read_input(self, value: Any) -> Row:
        words = value.get("text") if isinstance(value, Mapping) else value
        try:
            if isinstance(value, Mapping) and "tokens" in value:
                words = read_words(value["tokens"])
        except ValueError as error:
            raise DataError(f"an input cannot be used: 'tokens' {error}") from error
        words = words.split() if isinstance(words, str) else words
        if not isinstance(words, (list, tuple)) or not words or not all(isinstance(one, str) for one in words):
            raise DataError("an input cannot be used: give a text, or a list of words as 'tokens'")
        return {"tokens": list(words)}

    @override
    def texts(self, rows: Sequence[Row]) -> Iterator[str]:
        return (" ".join(row["tokens"]) for row in rows)

    @override
    def encoder(self, folder: Path) -> Encoder:
        tokenizer = load_tokenizer(folder, self.options.max_length)
        self.padding["input_ids"] = pad_id(folder, tokenizer)
        numbers = {label: number for number, label in enumerate(self.labels)}

        def one_row(row: Row, encoding: Any) -> Encoded:
            first: dict[int, int] = {}
            for place, word in enumerate(encoding.word_ids):
                if word is not None and word not in first:
                    first[word] = place
            target = None
            if "tags" in row:
                target = [IGNORE_INDEX] * len(encoding.ids)
                for word, place in first.items():
                    target[place] = numbers[row["tags"][word]] if row["tags"] is not None else UNLABELLED
            inputs = {
                "input_ids": encoding.ids,
                "attention_mask": encoding.attention_mask,
                "token_type_ids": encoding.type_ids,
            }
            alignment = WordAlignment(row["tokens"], first, row.get("tags") or ())
            return Encoded(inputs, target, alignment, bool(encoding.overflowing))

        def encode(rows: Sequence[Row]) -> list[Encoded]:
            encodings = tokenizer.encode_batch([row["tokens"] for row in rows], is_pretokenized=True)
            return [one_row(row, encoding) for row, encoding in zip(rows, encodings, strict=True)]

        return encode

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        return cross_entropy(outputs["logits"], batch["labels"], options)

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        answers = []
        for scores, one in zip(softmax(outputs["logits"]), batch, strict=True):
            alignment: WordAlignment = one.decode_state
            found = []
            for number, word in enumerate(alignment.words):
                place = alignment.first.get(number)
                best = int(scores[place].argmax()) if place is not None else None
                tag = self.labels[best] if best is not None else OUTSIDE
                score = float(scores[place][best]) if best is not None else 0.0
                found.append({"word": word, "tag": tag, "score": score})
            answers.append({"tags": [word["tag"] for word in found], "words": found, "entities": entities(found)})
        return answers

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        answers = self.decode(outputs, batch)
        return [(answer["tags"], list(one.decode_state.tags)) for answer, one in zip(answers, batch, strict=True)]

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        from seqeval.metrics import accuracy_score, f1_score

        guesses, truth = [list(column) for column in zip(*statistics, strict=True)]
        scores = {"accuracy": float(accuracy_score(truth, guesses))}
        if any(tag[:2] in ("B-", "I-") for row in truth for tag in row):
            scores["f1"] = float(f1_score(truth, guesses, zero_division=0))
        return scores

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return scores.get("f1", scores["accuracy"])

    @override
    def answer_schema(self) -> dict[str, Any]:
        text, tag = {"type": "string"}, {"enum": sorted({*self.labels, OUTSIDE})}
        word = object_schema(word=text, tag=tag, score={"type": "number"})
        index = {"type": "integer", "minimum": 0, "description": "counted in words"}
        entity = object_schema(type=text, text=text, start=index, end=index)
        lists = {"tags": tag, "words": word, "entities": entity}
        return object_schema(**{name: {"type": "array", "items": items} for name, items in lists.items()})

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        found = [f"{entity['text']} ({entity['type']})" for entity in answer["entities"]]
        return ", ".join(found) or " ".join(answer["tags"])


def entities(words: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs of ``B-x I-x …`` tags as ``{"type", "text", "start", "end"}``; positions are in words."""
    found: list[dict[str, Any]] = []
    open_type = ""
    for number, word in enumerate(words):
        prefix, _, kind = word["tag"].partition("-")
        if kind and (prefix == "B" or kind != open_type):
            found.append({"type": kind, "text": word["word"], "start": number, "end": number + 1})
        elif kind:
            found[-1]["text"] += f" {word['word']}"
            found[-1]["end"] = number + 1
        open_type = kind
    return found
