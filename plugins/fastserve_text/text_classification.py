"""One label for a text, or for a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fastserve_core.errors import InvalidData, InvalidOption
from fastserve_core.tasks import UNLABELLED, Arrays, Column, Encoded, Encoder, Row
from fastserve_text.base import TextTask, sorted_labels, validate_text
from fastserve_text.tokenization import load_tokenizer, pad_id, softmax


@dataclass
class Options:
    """``max_length`` is in tokens; longer texts are cut."""

    max_length: int = 128

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise InvalidOption(f"task.max_length must be at least 4 tokens, not {self.max_length}")


class TextClassification(TextTask):
    name: ClassVar[str] = "text_classification"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (Column("text"), Column("text_pair", required=False), Column("label"))
    head: ClassVar[str] = "ForSequenceClassification"

    def check(self, row: Row) -> str | None:
        if fault := validate_text(row):
            return fault
        if row.get("text_pair") is None:
            row.pop("text_pair", None)
        elif fault := validate_text(row, "text_pair"):
            return fault
        if row.get("label") is None or str(row["label"]).strip() == "":
            return "'label' is empty"
        row["label"] = str(row["label"]).strip()
        return None

    def find_labels(self, rows: Sequence[Row]) -> list[str]:
        counts = Counter(row["label"] for row in rows)
        if len(counts) < 2:
            raise InvalidData(f"all {len(rows)} training rows have the label '{next(iter(counts))}': two are needed")
        if len(counts) > len(rows) / 2 and len(rows) > 20:
            raise InvalidData(
                f"{len(counts)} different labels in {len(rows)} training rows: is data.columns.label the right column?"
            )
        return sorted_labels(set(counts))

    def stratum(self, row: Row) -> str:
        return str(row["label"])

    def read_input(self, value: Any) -> Row:
        if isinstance(value, (list, tuple)) and len(value) == 2:
            value = {"text": value[0], "text_pair": value[1]}
        row = super().read_input(value)
        if row.get("text_pair") is not None and (fault := validate_text(row, "text_pair")):
            raise InvalidData(f"an input cannot be used: {fault}")
        return row

    def encoder(self, folder: Path) -> Encoder:
        tokenizer = load_tokenizer(folder, self.options.max_length)
        self.padding["input_ids"] = pad_id(folder, tokenizer)
        numbers = {label: number for number, label in enumerate(self.labels)}

        def target_of(row: Row) -> int | None:
            if "label" not in row:
                return None
            return UNLABELLED if row["label"] is None else numbers.get(row["label"])

        def encode(rows: Sequence[Row]) -> list[Encoded]:
            texts = [(row["text"], row["text_pair"]) if row.get("text_pair") else row["text"] for row in rows]
            return [
                Encoded(
                    {"input_ids": one.ids, "attention_mask": one.attention_mask, "token_type_ids": one.type_ids},
                    target_of(row),
                    cut=bool(one.overflowing),
                )
                for one, row in zip(tokenizer.encode_batch_fast(texts), rows, strict=True)
            ]

        return encode

    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        answers = []
        for row in softmax(outputs["logits"]).tolist():
            scores = dict(zip(self.labels, row, strict=True))
            best = max(scores, key=scores.__getitem__)
            answers.append({"label": best, "score": scores[best], "scores": scores})
        return answers

    def evidence(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        guesses = outputs["logits"].argmax(axis=-1).tolist()
        return [(guess, one.target) for guess, one in zip(guesses, batch, strict=True)]

    def score(self, evidence: Sequence[Any]) -> dict[str, float]:
        from sklearn.metrics import f1_score

        guesses, truth = zip(*evidence, strict=True)
        right = sum(guess == target for guess, target in evidence)
        return {
            "accuracy": right / len(evidence),
            "macro_f1": float(f1_score(truth, guesses, average="macro", zero_division=0)),
        }

    def objective(self, scores: Mapping[str, float]) -> float:
        return scores["accuracy"]
