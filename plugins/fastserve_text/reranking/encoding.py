"""The pairs of a row as one list of token ids, with the score of the first pair and the lengths in the target."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from typing_extensions import override

from fastserve_core.tasks import Encoded, Row
from fastserve_text.examples import Examples
from fastserve_text.reranking.rows import row_pairs
from fastserve_text.tokenization import encode_within

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNLABELLED = math.inf
"""The score of a row without a label, in its target; NaN stands for a right document without a score."""
CANDIDATES = 30
"""The number of documents that a query without scores is evaluated with: those of its rows, and others of the split."""


class LabelledTexts(NamedTuple):
    """The texts of a labelled row, from which the pairs of an evaluation are made.

    Attributes:
        query: The query.
        documents: The documents of the row; the first one is right unless the row has a score.
        score: The score of the row; NaN if it has none.
    """

    query: str
    documents: Sequence[str]
    score: float


class Candidate(NamedTuple):
    """What a pair of an evaluation is for.

    Attributes:
        query: The query.
        score: The score of the data, or 1 for a right document and 0 for others.
        is_scored: Whether the score is that of the data.
    """

    query: str
    score: float
    is_scored: bool


@dataclass(frozen=True)
class PairEncoder:
    """Encodes rows. The document is cut if a pair is longer than the model reads, or the query if it is the longer one.

    Attributes:
        tokenizer: The tokenizer of the model.
        max_length: The number of tokens of a pair.
    """

    tokenizer: Tokenizer
    max_length: int

    def __call__(self, rows: Sequence[Row]) -> list[Encoded]:
        """Encode the rows, in their order."""
        pairs = [list(row_pairs(row)) for row in rows]
        found = iter(
            encode_within(self.tokenizer.encode_batch_fast, [pair for row in pairs for pair in row], self.max_length)
        )
        return [_join(row, [next(found) for _ in part]) for row, part in zip(rows, pairs, strict=True)]


def _join(row: Row, parts: Sequence[tuple[Any, bool]]) -> Encoded:
    """Return the pairs of a row as one."""
    inputs = {
        "input_ids": [token for encoding, _ in parts for token in encoding.ids],
        "attention_mask": [flag for encoding, _ in parts for flag in encoding.attention_mask],
        "token_type_ids": [kind for encoding, _ in parts for kind in encoding.type_ids],
    }
    target = texts = None
    if "score" in row and not row.get("is_labelled"):
        target = [UNLABELLED, float(len(inputs["input_ids"]))]
    elif row.get("is_labelled"):
        score = math.nan if row.get("score") is None else float(row["score"])
        target = [score, *(float(len(encoding.ids)) for encoding, _ in parts)]
        texts = LabelledTexts(row["query"], [document for _, document in row_pairs(row)], score)
    return Encoded(inputs, target, decode_state=texts, truncated=any(cut for _, cut in parts))


def split(encoded: Encoded) -> list[Encoded]:
    """Return the pairs of a row; the target of each is its score, or 1 for the right document and 0 for others.

    That of a row without a label, on which a student is compared with its teacher, is NaN.
    """
    if encoded.target is None:
        return [encoded]
    score, *lengths = encoded.target
    if score == UNLABELLED:
        return [Encoded(encoded.inputs, math.nan)]
    ends = list(accumulate(int(length) for length in lengths))
    return [
        Encoded(
            {name: values[start:end] for name, values in encoded.inputs.items()},
            float(place == 0) if math.isnan(score) else float(score),
        )
        for place, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
    ]


class PairExamples(Examples):
    """The pairs of training rows, one example each.

    Args:
        rows: The encoded rows.
    """

    def __init__(self, rows: Sequence[Encoded]) -> None:
        import numpy as np

        self.rows = rows
        counts = [1 if row.target is None else len(row.target) - 1 for row in rows]
        self.ends = np.cumsum(counts)
        self.lengths = np.asarray(
            [length for row in rows for length in ((len(row),) if row.target is None else row.target[1:])],
            dtype=np.int64,
        )

    @override
    def make(self, number: int) -> Encoded:
        import numpy as np

        row = int(np.searchsorted(self.ends, number, side="right"))
        return split(self.rows[row])[number - int(self.ends[row])]


def list_candidates(rows: Sequence[Encoded], encode: PairEncoder) -> list[Encoded]:
    """Return the pairs that a model is evaluated on, each with its ``Candidate`` as ``decode_state``.

    A row with a score is a pair. A query without is paired with the documents of its rows, and with others of the
    split, drawn by the query.

    Args:
        rows: The encoded rows of the split.
        encode: The encoder.
    """
    texts: list[LabelledTexts] = [row.decode_state for row in rows]
    pairs: list[Encoded] = []
    right: dict[str, set[str]] = {}
    own: dict[str, dict[str, None]] = {}
    for row, text in zip(rows, texts, strict=True):
        if math.isnan(text.score):
            right.setdefault(text.query, set()).add(text.documents[0])
            own.setdefault(text.query, {}).update(dict.fromkeys(text.documents))
        else:
            pairs.append(Encoded(row.inputs, text.score, Candidate(text.query, text.score, True)))
    documents = list(dict.fromkeys(name for found in own.values() for name in found))
    for query, found in own.items():
        drawn = random.Random(query).sample(documents, min(CANDIDATES, len(documents)))
        chosen = list(dict.fromkeys([*found, *drawn]))[: max(CANDIDATES, len(found))]
        encoded = encode([{"query": query, "document": document} for document in chosen])
        for document, pair in zip(chosen, encoded, strict=True):
            score = float(document in right[query])
            pairs.append(Encoded(pair.inputs, score, Candidate(query, score, False)))
    return pairs
