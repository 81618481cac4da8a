"""The texts of a row as one list of token ids, with the length of each text in the target, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from fastserve_core.errors import DataError, did_you_mean
from fastserve_core.tasks import Encoded, Row
from fastserve_text.embedding.rows import row_texts
from fastserve_text.embedding.sentence_settings import DOCUMENT, QUERY, SentenceSettings
from fastserve_text.tokenization import encode_within

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


@dataclass(frozen=True)
class TextEncoder:
    """Encodes rows; a text that is not the input of a request has the prompt of queries or of documents.

    The target of a labelled row is its score, or NaN, followed by the number of tokens of each of its texts.

    Attributes:
        tokenizer: The tokenizer of the model.
        settings: The settings of the model, with its prompts.
        max_length: The number of tokens that a text is cut to.
    """

    tokenizer: Tokenizer
    settings: SentenceSettings
    max_length: int

    def __call__(self, rows: Sequence[Row]) -> list[Encoded]:
        """Encode the rows, in their order."""
        counts = [1 if "tokens" in row else 1 + _count_more(row) for row in rows]
        texts = [text for row in rows for text in self._prompted(row)]
        tokens = iter(encode_within(self.tokenizer.encode_batch_fast, texts, self.max_length))
        return [
            self._wrap(row["tokens"]) if "tokens" in row else join(row, [next(tokens) for _ in range(count)])
            for row, count in zip(rows, counts, strict=True)
        ]

    def _prompted(self, row: Row) -> list[str]:
        """Return the texts of a row with their prompts; none for a row of token ids."""
        if "tokens" in row:
            return []
        prompts = self.settings.prompts
        if not row.get("positive"):
            name = row.get("prompt_name", self.settings.default_prompt)
            if name and name not in prompts:
                raise DataError(f"the model has no prompt '{name}'{did_you_mean(name, prompts)}")
            return [prompts.get(name or "", "") + row["text"]]
        if row.get("score") is not None:  # both texts are of one kind
            return list(row_texts(row))
        first, *others = row_texts(row)
        return [prompts.get(QUERY, "") + first, *(prompts.get(DOCUMENT, "") + text for text in others)]

    def _wrap(self, tokens: Sequence[int]) -> Encoded:
        """Return an input of token ids, which has no special tokens yet."""
        largest = self.tokenizer.get_vocab_size()
        if max(tokens) >= largest:
            raise DataError(f"an input has the token {max(tokens)}, but the vocabulary has {largest}")
        before, after = self._frame
        room = self.max_length - len(before) - len(after)
        ids = [*before, *tokens[:room], *after]
        inputs = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)}
        return Encoded(inputs, truncated=len(tokens) > room)

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        encoding = self.tokenizer.encode("a")
        inner = [number for number, special in enumerate(encoding.special_tokens_mask) if not special]
        return encoding.ids[: inner[0]], encoding.ids[inner[-1] + 1 :]


def _count_more(row: Row) -> int:
    """Return the number of texts of a row besides the first."""
    return sum(1 for _ in row_texts(row)) - 1


def join(row: Row, parts: Sequence[tuple[Encoding, bool]]) -> Encoded:
    """Return the texts of a row as one."""
    inputs: dict[str, list[int]] = {
        "input_ids": [token for encoding, _ in parts for token in encoding.ids],
        "attention_mask": [flag for encoding, _ in parts for flag in encoding.attention_mask],
        "token_type_ids": [kind for encoding, _ in parts for kind in encoding.type_ids],
    }
    score = row.get("score")
    target = [math.nan if score is None else float(score), *(float(len(encoding.ids)) for encoding, _ in parts)]
    is_request = "positive" not in row
    return Encoded(inputs, None if is_request else target, truncated=any(truncated for _, truncated in parts))


def split(encoded: Encoded) -> list[Encoded]:
    """Return the texts of a row, the first one, the one that is close to it, and those that are not."""
    if encoded.target is None:
        return [encoded]
    ends = list(accumulate(int(length) for length in encoded.target[1:]))
    return [
        Encoded({name: values[start:end] for name, values in encoded.inputs.items()})
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def score_of(encoded: Encoded) -> float:
    """Return the score of a row; NaN if it has none."""
    return math.nan if encoded.target is None else float(encoded.target[0])


def text_key(inputs: Mapping[str, Any]) -> bytes:
    """Return the token ids of a text as bytes, by which equal texts are found."""
    import numpy as np

    return np.asarray(inputs["input_ids"], dtype=np.int64).tobytes()
