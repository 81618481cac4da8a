"""Sources and targets as token ids, and the arrays of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import IGNORE_INDEX, Arrays, Encoded, Row
from fastserve_text.examples import seed_number
from fastserve_text.seq2seq.options import Options
from fastserve_text.seq2seq.special_tokens import SpecialTokens, read_special_tokens
from fastserve_text.tokenization import encode_within, load_tokenizer

SEPARATOR = IGNORE_INDEX
"""Between the token ids of several targets of a row."""


class PairEncoder:
    """Encodes rows of ``text`` and, if they are labelled, ``target``, a list of references."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.options = options
        self.tokenizer = load_tokenizer(folder, options.max_length)
        self._targets = load_tokenizer(folder, options.max_target_length + 1)
        self.special: SpecialTokens = read_special_tokens(folder, self.tokenizer)

    def __call__(self, rows: Sequence[Row]) -> list[Encoded]:
        """Encode the rows; ``decode_state`` holds the references.

        Raises:
            OptionError: A row of a training has no target.
        """
        if any("target" in row and row["target"] is None for row in rows):
            raise OptionError("a teacher scores the tokens of targets: texts without one are no use to its student")
        sources = self.encode_sources([row["text"] for row in rows])
        return [
            Encoded(
                {"input_ids": ids, "attention_mask": [1] * len(ids)},
                self._encode_targets(row["target"]) if row.get("target") else None,
                row.get("target"),
                truncated,
            )
            for (ids, truncated), row in zip(sources, rows, strict=True)
        ]

    def encode_sources(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """Return the token ids of each source with the prefix, and whether a part of it is missing.

        Raises:
            DataError: A source has no tokens.
        """
        prefixed = [self.options.prefix + text for text in texts]
        found = encode_within(self.tokenizer.encode_batch_fast, prefixed, self.options.max_length)
        if not all(encoding.ids for encoding, _ in found):
            raise DataError("an input cannot be used: it has no tokens that the model knows")
        return [(encoding.ids, truncated) for encoding, truncated in found]

    def _encode_targets(self, texts: Sequence[str]) -> list[int]:
        """Return the targets, each with an end unless it is cut, with separators between."""
        joined: list[int] = []
        for encoding in self._targets.encode_batch_fast(list(texts)):
            ids = encoding.ids[1:] if encoding.ids[:1] == [self.special.start] else list(encoding.ids)
            ids = [token for token in ids if token != self.special.end]
            whole = ids if encoding.overflowing else [*ids, self.special.end]
            joined += [*([SEPARATOR] if joined else []), *whole[: self.options.max_target_length]]
        return joined


def split_targets(target: Any) -> list[list[int]]:
    """Return the targets of a row, of which the encoder has made one list."""
    found: list[list[int]] = [[]]
    for token in map(int, target):
        if token == SEPARATOR:
            found.append([])
        else:
            found[-1].append(token)
    return found


def choose_target(target: Any, seed: str) -> list[int]:
    """Return one of the targets of a row; another one for another seed."""
    targets = split_targets(target)
    return targets[seed_number(seed) % len(targets)] if len(targets) > 1 else targets[0]


def collate_pairs(batch: Sequence[Encoded], special: SpecialTokens, targets: bool) -> Arrays:
    """Return padded arrays; with targets also ``labels``, and ``decoder_input_ids``, the labels after the start."""
    sources = [one.inputs["input_ids"] for one in batch]
    arrays = {
        "input_ids": _pad(sources, special.pad),
        "attention_mask": _pad([[1] * len(ids) for ids in sources], 0),
    }
    if targets:
        labels = [split_targets(one.target)[0] for one in batch]
        arrays["labels"] = _pad(labels, IGNORE_INDEX)
        arrays["decoder_input_ids"] = _pad([[special.start, *ids[:-1]] for ids in labels], special.pad)
    return arrays


def _pad(rows: Sequence[Sequence[int]], value: int) -> Any:
    import numpy as np

    array = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for number, row in enumerate(rows):
        array[number, : len(row)] = row
    return array
