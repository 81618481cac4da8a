"""Texts to token ids and to padded arrays; the tokenizer without the rest of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import list_tokenizer_files, max_positions, read_config, read_object
from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import MissingPackageError, ModelError, OptionError
from fastserve_core.tasks import IGNORE_INDEX, Arrays, Encoded

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
SETTINGS = ("_config.json", "_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json")
"""How the names of a tokenizer's files end that have no vocabulary."""
CHARACTERS_PER_TOKEN = (8, 128)
"""Characters for each token that the model reads, to which a text is cut before it is tokenized. BERT's English tokens
have 4 to 5. BERT's tokenizer reads about a megabyte a second: 128 tokens take 1 ms, and at most 16 ms."""
PAD_VALUES = {"attention_mask": 0, "token_type_ids": 0, "labels": IGNORE_INDEX}
UNMASKED = frozenset({"fnet"})
"""By ``model_type``: families without an attention mask."""
SHARED_TYPES = frozenset({"ctrl", "gpt2", "openai-gpt"})
"""Families that look up token types among the words, so that zeros add the embedding of a word."""
COMMON_SPECIAL_TOKENS = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "unk_token": ("[UNK]", "<unk>"),
    "eos_token": ("<|endoftext|>", "</s>"),
}
"""Usual spellings of special tokens, for a folder whose tokenizer_config.json does not name them."""


def load_tokenizer(folder: Path, max_length: int) -> Tokenizer:
    """Load the folder's tokenizer, which cuts at ``max_length`` tokens and does not pad.

    A tokenizer.json may carry its own padding (MiniLM's pads everything to 128 tokens), which would make
    every short text cost as much as a long one.

    Raises:
        ModelError: The folder has no tokenizer, or a damaged one.
        MissingPackageError: A package that reads the vocabulary is not installed.
    """
    path = folder / TOKENIZER
    tokenizer = _read_tokenizer(path) if path.is_file() else _convert_tokenizer(folder)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def _read_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exceptions
        raise ModelError(f"{path} cannot be read ({error}): restore the file from the model's source") from error
    return _check_vocabulary(tokenizer, path)


def _convert_tokenizer(folder: Path) -> Tokenizer:
    """Convert the vocabulary of an older folder without tokenizer.json, as transformers does."""
    from transformers import AutoTokenizer

    vocabularies = [name for name in list_tokenizer_files(folder) if not name.endswith(SETTINGS)]
    if not vocabularies:
        raise ModelError(
            f"{folder} has no tokenizer: neither {TOKENIZER} nor a vocabulary. Copy the tokenizer's files from the "
            "model's source into the folder"
        )
    pieces = [name for name in vocabularies if name.endswith((".model", ".spm"))]
    if pieces and (missing := missing_packages(("sentencepiece",))):
        raise MissingPackageError(f"{folder / pieces[0]} needs {missing[0]}: pip install {missing[0]}")
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True).backend_tokenizer
    except Exception as error:
        raise ModelError(
            f"{folder} has no {TOKENIZER}, and none could be made from {', '.join(vocabularies)}: {error}"
        ) from error
    return _check_vocabulary(tokenizer, folder)


def _check_vocabulary(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    """Return a tokenizer that knows more than its special tokens."""
    special = sum(token.special for token in tokenizer.get_added_tokens_decoder().values())
    if tokenizer.get_vocab_size() <= special:
        raise ModelError(f"{path}: the tokenizer has no vocabulary, so that every word would be unknown to the model")
    return tokenizer


def encode_within(
    encode: Callable[[list[Any]], list[Any]], inputs: Sequence[Any], max_length: int
) -> list[tuple[Any, bool]]:
    """Tokenize inputs in a time that is bounded by the model's length rather than by theirs.

    An input is first cut to a few characters for each token that the model reads, which is enough for nearly all of
    them. If it then has fewer tokens than the model reads, as one of spaces has, it is tokenized again with many more.

    Args:
        encode: Tokenizes texts or pairs of texts, with truncation at ``max_length``.
        inputs: The inputs.
        max_length: Maximum number of tokens.

    Returns:
        The encoding of each input, and whether a part of the input is missing in it.
    """
    few, many = (factor * max_length for factor in CHARACTERS_PER_TOKEN)
    sizes = [num_characters(value) for value in inputs]
    if max(sizes, default=0) <= few:
        return [(encoding, bool(encoding.overflowing)) for encoding in encode(list(inputs))]
    encodings = encode([cut_input(value, few) for value in inputs])
    again = [index for index, size in enumerate(sizes) if size > few and not encodings[index].overflowing]
    for index, encoding in zip(again, encode([cut_input(inputs[index], many) for index in again]), strict=True):
        encodings[index] = encoding
    return [
        (encoding, bool(encoding.overflowing) or size > many) for encoding, size in zip(encodings, sizes, strict=True)
    ]


def num_characters(value: Any) -> int:
    """Return the number of characters of a text, or of the longer text of a pair."""
    return len(value) if isinstance(value, str) else max(map(len, value))


def cut_input(value: Any, limit: int) -> Any:
    """Return at most ``limit`` characters of a text, or of each text of a pair."""
    return value[:limit] if isinstance(value, str) else tuple(text[:limit] for text in value)


def check_positions(folder: Path, max_length: int) -> None:
    """Raise ``OptionError`` when the model has fewer positions than that; some models have no such bound."""
    most = max_positions(folder)
    if most is not None and max_length > most:
        raise OptionError(
            f"task.max_length is {max_length}, but the model has {most} positions (model.max_positions): "
            f"set task.max_length={most} or less"
        )


def check_embedding(folder: Path, tokenizer: Tokenizer) -> None:
    """Raise ``ModelError`` when the tokenizer has tokens for which the model's config has no embedding."""
    config = read_config(folder)
    rows = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    if not isinstance(rows, int):
        return  # a composed model has a vocabulary for each of its parts
    beyond = sorted((index, token) for token, index in tokenizer.get_vocab().items() if index >= rows)
    if beyond:
        names = ", ".join(f"'{token}' ({index})" for index, token in beyond[:3])
        raise ModelError(
            f"the tokenizer of {folder} has {len(beyond)} tokens without an embedding in the model, such as {names}. "
            f"The model has {rows} (vocab_size): use the tokenizer with which it was trained, or resize its embedding "
            "(model.resize_token_embeddings)"
        )


def unknown_share(folder: Path, texts: Sequence[str]) -> float:
    """Return the share of the tokens of texts that the folder's tokenizer does not know."""
    tokenizer = load_tokenizer(folder, max_length=1)
    tokenizer.no_truncation()
    unknown = token_id(folder, tokenizer, "unk_token")
    if unknown is None:
        return 0.0
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return sum(encoding.ids.count(unknown) for encoding in encodings) / max(1, sum(map(len, encodings)))


def token_id(folder: Path, tokenizer: Tokenizer, name: str) -> int | None:
    """The id of a special token such as ``cls_token``, by the tokenizer's config or by its usual spellings."""
    path = folder / "tokenizer_config.json"
    token = (read_object(path) if path.is_file() else {}).get(name)
    token = token.get("content") if isinstance(token, Mapping) else token
    numbers = [tokenizer.token_to_id(one) for one in ((token,) if token else COMMON_SPECIAL_TOKENS.get(name, ()))]
    return next((int(number) for number in numbers if number is not None), None)


def pad_id(folder: Path, tokenizer: Tokenizer) -> int:
    """Return the id to pad with: the config's, else the tokenizer's, else that of the end of a text.

    Some classifiers find the last token of a text by it, so it must be the one of the model's config.
    """
    numbers = [read_config(folder).get("pad_token_id"), token_id(folder, tokenizer, "pad_token")]
    numbers += [read_config(folder).get("eos_token_id"), token_id(folder, tokenizer, "eos_token")]
    return next((number for number in numbers if isinstance(number, int) and number >= 0), 0)


def find_end_tokens(folder: Path, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that end a text of a language model, as engines know them; the tokenizer's if none does."""
    files = [folder / name for name in ("generation_config.json", "config.json")]
    found = next((read_object(path).get("eos_token_id") for path in files if path.is_file()), None)
    ids = found if isinstance(found, list) else [token_id(folder, tokenizer, "eos_token") if found is None else found]
    return [number for number in ids if number is not None]


def pads_left(folder: Path) -> bool:
    """Return whether the folder's classifiers read the last position, which must not be padding."""
    return read_config(folder).get("summary_type") == "last"  # XLNet


def ignores_mask(folder: Path) -> bool:
    """Return whether the folder's model mixes padding into its outputs, so that all texts need the same length."""
    return read_config(folder).get("model_type") in UNMASKED


def takes_token_types(folder: Path) -> bool:
    """Return whether the folder's model tells the two texts of a pair apart by token types."""
    config = read_config(folder)
    rows = config.get("type_vocab_size", 2)
    return config.get("model_type") not in SHARED_TYPES and not (isinstance(rows, int) and rows < 2)


def pad(
    batch: Sequence[Encoded], padding: Mapping[str, int], targets: bool, left: bool = False, length: int = 0
) -> Arrays:
    """Arrays of shape (batch, longest) by input name; ``labels`` too when the targets are asked for.

    They have at least ``length`` columns.

    The rows may be lists or arrays; a target that is one number stays one number a row.
    """
    import numpy as np

    longest = max(length, *(len(one) for one in batch))
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
