"""Texts to token ids and to padded arrays; the tokenizer without the rest of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import max_positions, read_json
from fastserve_core.errors import ModelError, OptionError
from fastserve_core.tasks import IGNORE_INDEX, Arrays, Encoded

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD_VALUES = {"attention_mask": 0, "token_type_ids": 0, "labels": IGNORE_INDEX}
COMMON_SPECIAL_TOKENS = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "unk_token": ("[UNK]", "<unk>"),
    "eos_token": ("<|endoftext|>", "</s>"),
}
"""How special tokens are spelt where a folder's tokenizer_config.json does not say."""


def load_tokenizer(folder: Path, max_length: int) -> Tokenizer:
    """The folder's tokenizer, cutting at ``max_length`` tokens and padding nothing.

    A tokenizer.json may carry its own padding (MiniLM's pads everything to 128 tokens), which would make
    every short text cost as much as a long one.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else _to_fast_tokenizer(folder)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def _to_fast_tokenizer(folder: Path) -> Any:
    """An older folder without tokenizer.json: transformers knows how to make one."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, use_fast=True).backend_tokenizer
    except Exception as error:
        raise ModelError(f"{folder} has no tokenizer.json, and none could be made from its files: {error}") from error


def check_positions(folder: Path, max_length: int) -> None:
    """Raise ``OptionError`` when the model has fewer positions than that; some models have no such bound."""
    most = max_positions(folder)
    if most is not None and max_length > most:
        raise OptionError(f"task.max_length is {max_length}, but the model has {most} positions (model.max_positions)")


def token_id(folder: Path, tokenizer: Tokenizer, name: str) -> int | None:
    """The id of a special token such as ``cls_token``, by the tokenizer's config or by its usual spellings."""
    path = folder / "tokenizer_config.json"
    token = (read_json(path) if path.is_file() else {}).get(name)
    token = token.get("content") if isinstance(token, Mapping) else token
    numbers = [tokenizer.token_to_id(one) for one in ((token,) if token else COMMON_SPECIAL_TOKENS.get(name, ()))]
    return next((int(number) for number in numbers if number is not None), None)


def pad_id(folder: Path, tokenizer: Tokenizer) -> int:
    """The id to pad with; any would do where an attention mask is used, so 0 when the model has none."""
    number = token_id(folder, tokenizer, "pad_token")
    if number is None:
        number = read_json(folder / "config.json").get("pad_token_id")
    return int(number or 0)


def pad(batch: Sequence[Encoded], padding: Mapping[str, int], targets: bool, left: bool = False) -> Arrays:
    """Arrays of shape (batch, longest) by input name; ``labels`` too when the targets are asked for.

    What is padded may be lists or arrays; a target that is one number stays one number a row.
    """
    import numpy as np

    longest = max(len(one) for one in batch)
    columns: dict[str, list[Any]] = {name: [one.inputs[name] for one in batch] for name in batch[0].inputs}
    if targets:
        columns["labels"] = [one.target for one in batch]
    arrays: Arrays = {}
    for name, rows in columns.items():
        if np.ndim(rows[0]) == 0:
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
