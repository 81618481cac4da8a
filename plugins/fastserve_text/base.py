"""What the text tasks share: columns, padding, reading a caller's input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fastserve_core.errors import InvalidData, InvalidPlan
from fastserve_core.tasks import Arrays, Column, Encoded, Row
from fastserve_text.tokenization import pad

if TYPE_CHECKING:
    from torch import nn

    from fastserve_core.config import ModelSpec
    from fastserve_core.tasks import TextCodec


def validate_text(row: Row, name: str = "text") -> str | None:
    """Why the row's text cannot be used."""
    value = row.get(name)
    if not isinstance(value, str):
        return f"'{name}' is missing" if value is None else f"'{name}' is {type(value).__name__}, not text"
    return None if value.strip() else f"'{name}' is empty"


@dataclass(frozen=True)
class ReiterableTexts:
    """Texts that can be read more than once, without being held in memory."""

    begin: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        return self.begin()


class TextTask:
    """The base of the text tasks; what differs is in the subclasses."""

    name: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]] = (Column("text"),)
    head: ClassVar[str]
    generative: ClassVar[bool] = False
    foundation: ClassVar[bool] = False

    def __init__(self, options: Any, labels: Sequence[str] = ()) -> None:
        self.options = options
        self.labels = list(labels)
        self.padding: dict[str, int] = {"input_ids": 0}

    def find_labels(self, rows: Sequence[Row]) -> list[str]:
        return []

    def stratum(self, row: Row) -> str:
        return ""

    def read_input(self, value: Any) -> Row:
        row = dict(value) if isinstance(value, Mapping) else {"text": value}
        if fault := validate_text(row):
            raise InvalidData(f"an input cannot be used: {fault}")
        return row

    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        return encoded

    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        return pad(batch, self.padding, targets)

    def writer(self, folder: Path) -> TextCodec:
        raise InvalidPlan(f"the task {self.name} does not write texts")

    def prompts(self, batch: Sequence[Encoded]) -> Arrays:
        return self.collate(batch)

    def scratch(self, spec: ModelSpec, rows: Sequence[Row], folder: Path) -> None:
        from fastserve_text.model_factory import write_scratch

        write_scratch(
            spec, ReiterableTexts(lambda: self.texts(rows)), folder, "LMHeadModel" if spec.name == "gpt2" else self.head
        )

    def texts(self, rows: Sequence[Row]) -> Iterator[str]:
        """Every text of the rows, for learning a tokenizer."""
        return (row[name] for row in rows for name in ("text", "text_pair") if isinstance(row.get(name), str))

    def build(self, folder: Path) -> nn.Module:
        from fastserve_text.model_factory import build_model

        return build_model(folder, self.head, self.labels)


def sorted_labels(labels: set[str]) -> list[str]:
    """Labels in a stable order: by number where all are whole numbers, else by text."""
    numeric = all(label.lstrip("-").isdecimal() for label in labels)
    return sorted(labels, key=int) if numeric else sorted(labels)
