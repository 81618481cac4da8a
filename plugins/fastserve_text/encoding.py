"""Texts to token ids and to padded arrays; the tokenizer without the rest of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.errors import BadModel
from fastserve_core.files import read_json
from fastserve_core.task import Arrays, Encoded

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD_VALUES = {"attention_mask": 0, "token_type_ids": 0, "labels": -100}
IGNORED = -100
"""The label of a position that no loss and no score counts."""


def load_tokenizer(folder: Path, max_length: int) -> Tokenizer:
    """The folder's tokenizer, cutting at ``max_length`` tokens and padding nothing.

    A tokenizer.json may carry its own padding (MiniLM's pads everything to 128 tokens), which would make
    every short text cost as much as a long one.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else _converted(folder)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def _converted(folder: Path) -> Any:
    """An older folder without tokenizer.json: transformers knows how to make one."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, use_fast=True).backend_tokenizer
    except Exception as error:
        raise BadModel(f"{folder} has no tokenizer.json, and none could be made from its files: {error}") from error


def pad_id(folder: Path, tokenizer: Tokenizer) -> int:
    """The id to pad with; any would do where an attention mask is used, so 0 when the model has none."""
    token = (
        _token(read_json(folder / "tokenizer_config.json")) if (folder / "tokenizer_config.json").is_file() else None
    )
    number = tokenizer.token_to_id(token) if token else None
    if number is None:
        number = read_json(folder / "config.json").get("pad_token_id")
    return int(number or 0)


def _token(config: Mapping[str, Any]) -> str | None:
    token = config.get("pad_token")
    return token.get("content") if isinstance(token, Mapping) else token


def pad(batch: Sequence[Encoded], padding: Mapping[str, int], targets: bool, left: bool = False) -> Arrays:
    """Arrays of shape (batch, longest) by input name; ``labels`` too when the targets are asked for."""
    import numpy as np

    longest = max(len(one) for one in batch)
    columns: dict[str, list[Any]] = {name: [one.inputs[name] for one in batch] for name in batch[0].inputs}
    if targets:
        columns["labels"] = [one.target for one in batch]
    arrays: Arrays = {}
    for name, rows in columns.items():
        if isinstance(rows[0], int):
            arrays[name] = np.asarray(rows, dtype=np.int64)
            continue
        array = np.full((len(rows), longest), (PAD_VALUES | dict(padding))[name], dtype=np.int64)
        for number, row in enumerate(rows):
            place = slice(longest - len(row), longest) if left else slice(0, len(row))
            array[number, place] = row
        arrays[name] = array
    return arrays


def softmax(logits: Any) -> Any:
    """Probabilities over the last axis."""
    import numpy as np

    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
