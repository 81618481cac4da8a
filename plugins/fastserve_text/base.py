"""The common part of the text tasks: columns, padding, reading a caller's input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.artifacts import list_weight_files, read_config, read_object, write_json
from fastserve_core.errors import DataError, ModelError, OptionError
from fastserve_core.tasks import Arrays, Column, Encoded, Encoder, Proposal, Row, Task
from fastserve_text.recognition import count_tokens, holds_labels, holds_texts, is_latin, propose_length
from fastserve_text.tokenization import (
    check_embedding,
    check_positions,
    encode_within,
    ignores_mask,
    load_tokenizer,
    pad,
    pad_id,
    pads_left,
    takes_token_types,
    unknown_share,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import nn

    from fastserve_core.config import ModelSpec


TEXT = Column(
    "text",
    title="Text",
    usual_names=(
        "texts", "sentence", "sentences", "content", "review", "reviews", "comment", "tweet", "utterance", "message",
        "post", "document", "article", "body", "query", "question", "sentence1", "premise", "question1",
        "文本", "内容", "评论", "评价", "句子", "正文",
    ),
)  # fmt: skip


LABEL = "label"
"""The name of the column of a task that has one label a row."""


def validate_text(row: Row, name: str = "text") -> str | None:
    """Return why the row's text cannot be used, or ``None``."""
    value = row.get(name)
    if not isinstance(value, str):
        return f"'{name}' is missing" if value is None else f"'{name}' is {type(value).__name__}, not text"
    return None if value.strip() else f"'{name}' is empty"


@dataclass
class TextOptions:
    """``max_length`` is in tokens."""

    max_length: int = 128

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise OptionError(f"task.max_length must be at least 4 tokens, not {self.max_length}")


@dataclass(frozen=True)
class ReiterableTexts:
    """Texts that can be read more than once, without being held in memory."""

    begin: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        return self.begin()


class TextTask(Task):
    """The base of the text tasks: one column of texts, padding, models of transformers."""

    columns: ClassVar[tuple[Column, ...]] = (TEXT,)
    not_in_rows: ClassVar[frozenset[str]] = frozenset({"max_length"})
    head: ClassVar[str]
    """How the name of the model's class in transformers ends."""
    first_model: ClassVar[str] = ""
    """The model that a first run on texts in Latin letters starts from; empty for the default."""
    untrained_model: ClassVar[str] = "bert"
    """The model that a first run on other texts starts from."""

    def __init__(self, options: Any, labels: Sequence[str] = ()) -> None:
        super().__init__(options, labels)
        self.padding: dict[str, int] = {"input_ids": 0}
        self.pads_left, self.padded_length, self.has_token_types = False, 0, True

    @override
    def check(self, row: Row) -> str | None:
        return validate_text(row)

    @override
    def read_input(self, value: Any) -> Row:
        row = dict(value) if isinstance(value, Mapping) else {"text": value}
        if fault := validate_text(row):
            raise DataError(f"an input cannot be used: {fault}")
        return row

    def text_encoder(self, folder: Path, target: Callable[[Row], Any]) -> Encoder:
        """Return an encoder of single texts and pairs, with the option ``max_length``.

        Args:
            folder: The model's folder, with its tokenizer.
            target: Returns the target of a row; ``None`` for a row without label columns.
        """
        tokenizer = self.prepare_padding(folder)
        self.pads_left = pads_left(folder)

        def encode(rows: Sequence[Row]) -> list[Encoded]:
            texts = [(row["text"], row["text_pair"]) if row.get("text_pair") else row["text"] for row in rows]
            return [
                Encoded(
                    {
                        "input_ids": tokens.ids,
                        "attention_mask": tokens.attention_mask,
                        "token_type_ids": tokens.type_ids,
                    },
                    target(row),
                    truncated=truncated,
                )
                for (tokens, truncated), row in zip(
                    encode_within(tokenizer.encode_batch_fast, texts, self.options.max_length), rows, strict=True
                )
            ]

        return encode

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        arrays = pad(batch, self.padding, targets, self.pads_left, self.padded_length)
        if not self.has_token_types:
            arrays.pop("token_type_ids", None)
        return arrays

    def prepare_padding(self, folder: Path) -> Tokenizer:
        """Load the tokenizer of a model folder, and read how the model's batches are laid out."""
        tokenizer = load_tokenizer(folder, self.options.max_length)
        self.padding["input_ids"] = pad_id(folder, tokenizer)
        self.padded_length = self.options.max_length if ignores_mask(folder) else 0
        self.has_token_types = takes_token_types(folder)
        return tokenizer

    @override
    def init_from_scratch(self, spec: ModelSpec, rows: Sequence[Row], folder: Path) -> None:
        from fastserve_text.model_factory import write_scratch

        write_scratch(
            spec, ReiterableTexts(lambda: self.texts(rows)), folder, "LMHeadModel" if spec.name == "gpt2" else self.head
        )

    def texts(self, rows: Sequence[Row]) -> Iterator[str]:
        """Return every text of the rows, for learning a tokenizer."""
        return (row[name] for row in rows for name in ("text", "text_pair") if isinstance(row.get(name), str))

    @override
    def check_model(self, folder: Path) -> None:
        check_files(folder)
        check_positions(folder, self.options.max_length)
        check_embedding(folder, load_tokenizer(folder, self.options.max_length))

    @override
    def unknown_share(self, folder: Path, rows: Sequence[Row]) -> float:
        return unknown_share(folder, list(self.texts(rows)))

    # -- a first look at a file ----------------------------------------------------------------------

    @override
    def recognizes_column(self, column: Column, values: Sequence[Any]) -> bool:
        if column is TEXT:
            return holds_texts(values)
        return self.label_columns == (LABEL,) == (column.name,) and holds_labels(values)

    @override
    def propose(self, rows: Sequence[Row]) -> Proposal:
        sample = list(self.texts(rows))
        proposed = self.propose_length(rows)
        if is_latin(sample):
            return Proposal(proposed.options, self.first_model, proposed.notes)
        note = f"the letters are mostly not Latin: {self.untrained_model} learns a tokenizer; a checkpoint knows more"
        return Proposal(proposed.options, self.untrained_model, (*proposed.notes, note))

    def propose_length(self, rows: Sequence[Row]) -> Proposal:
        """Return the proposal for ``max_length``, for a task that cuts longer texts."""
        lengths = [sum(count_tokens(text) for text in self.texts([row])) for row in rows]
        length, note = propose_length(lengths)
        return Proposal({"max_length": length}, notes=(note,))

    @override
    def complete_checkpoint(self, folder: Path) -> None:
        config = read_config(folder)
        if config.get("pad_token_id") is None:
            padding = pad_id(folder, load_tokenizer(folder, self.options.max_length))
            write_json(folder / "config.json", {**config, "pad_token_id": padding})

    @override
    def accepts_model(self, architecture: str) -> bool:
        return architecture.endswith(self.head)

    @override
    def build(self, folder: Path) -> nn.Module:
        from fastserve_text.model_factory import build_and_describe

        model, self.head_report = build_and_describe(folder, self.head, self.labels)
        return model


def check_files(folder: Path) -> None:
    """Raise ``ModelError`` for settings that are not JSON, and for weights whose table of tensors is damaged."""
    from safetensors import SafetensorError, safe_open

    for name in ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            read_object(folder / name)
    for name in list_weight_files(folder):
        try:
            with safe_open(folder / name, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{folder / name} is damaged ({error}): restore the file from its source") from error


def sorted_labels(labels: set[str]) -> list[str]:
    """Labels in a stable order: by number if all are whole numbers, else by text."""
    numeric = all(label.lstrip("-").isdecimal() for label in labels)
    return sorted(labels, key=int) if numeric else sorted(labels)
