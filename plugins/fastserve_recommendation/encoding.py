"""Histories as numbers of items, examples for a training, and padded arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastserve_core.tasks import IGNORE_INDEX, Arrays, Encoded, Row
from fastserve_recommendation.baselines import BASELINES
from fastserve_recommendation.sequences import ITEMS, NEXT
from fastserve_recommendation.vocabulary import MASK, PADDING, Vocabulary

UNKNOWN = PADDING
"""The target of a row whose next item the model does not know: no answer is right."""


@dataclass(frozen=True)
class HistoryState:
    """The parts of a history that an answer needs.

    Attributes:
        seen: The numbers of all known items, also of those before the ones that the model reads.
        unknown: The ids that the model does not know, each once.
        count: The number of items that were asked for; ``None`` for the default.
        ranks: The rank of the next item by each baseline; empty for a row of train.
    """

    seen: frozenset[int]
    unknown: tuple[str, ...] = ()
    count: int | None = None
    ranks: tuple[int | None, ...] = ()


class HistoryEncoder:
    """Encodes histories for one model.

    Args:
        vocabulary: The model's items.
        max_length: The number of items that the model reads: the last ones.
        is_causal: Whether the model predicts after the last item, and not at a mask behind it.
    """

    def __init__(self, vocabulary: Vocabulary, max_length: int, is_causal: bool) -> None:
        self.vocabulary, self.is_causal = vocabulary, is_causal
        self._room = max_length if is_causal else max_length - 1

    def __call__(self, rows: Sequence[Row]) -> list[Encoded]:
        """Encode the rows, in their order."""
        return [self._encode(row) for row in rows]

    def _encode(self, row: Row) -> Encoded:
        numbers = self.vocabulary.numbers
        known = [numbers[item] for item in row[ITEMS] if item in numbers]
        unknown = tuple(dict.fromkeys(item for item in row[ITEMS] if item not in numbers))
        ids = known[-self._room :]
        if not ids or not self.is_causal:
            ids = [*ids, MASK]
        ranks = tuple(row[name] for name in BASELINES if name in row)
        state = HistoryState(frozenset(known), unknown, row.get("k"), ranks)
        target = numbers.get(row[NEXT], UNKNOWN) if NEXT in row else None
        inputs = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        return Encoded(inputs, target, state, len(known) > self._room)


def mask_items(encoded: Sequence[Encoded], seed: str, share: float) -> list[Encoded]:
    """Return examples in which a share of the items is hidden, the next one among them (Sun et al. 2019).

    In one of ten examples only the next item is hidden, as in a prediction.

    Args:
        encoded: Histories that end in a mask, with their next items.
        seed: The seed; the same one gives the same examples.
        share: The share of the items to hide.
    """
    import random

    import numpy as np

    generator = np.random.default_rng(random.Random(seed).getrandbits(64))
    examples = []
    for example in encoded:
        ids = np.array(example.inputs["input_ids"], dtype=np.int64)
        ids[-1] = example.target
        is_hidden = generator.random(len(ids)) < (share if generator.random() < 0.9 else 0.0)
        is_hidden[-1] = is_hidden[-1] or not is_hidden.any()
        labels = np.where(is_hidden, ids, IGNORE_INDEX)
        ids[is_hidden] = MASK
        inputs: dict[str, Any] = {**example.inputs, "input_ids": ids}
        examples.append(replace(example, inputs=inputs, target=labels))
    return examples


def collate(batch: Sequence[Encoded], with_labels: bool) -> Arrays:
    """Return arrays of shape (batch, longest), padded on the right.

    The labels of an example whose target is one item are its items shifted by one, and that item at the end.
    """
    import numpy as np

    shape = len(batch), max(map(len, batch))
    arrays = {name: np.zeros(shape, dtype=np.int64) for name in ("input_ids", "attention_mask")}
    labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
    for number, example in enumerate(batch):
        length = len(example)
        ids = np.asarray(example.inputs["input_ids"])
        arrays["input_ids"][number, :length], arrays["attention_mask"][number, :length] = ids, 1
        if with_labels:
            labels[number, :length] = _labels(ids, example.target)
    return {**arrays, "labels": labels} if with_labels else arrays


def _labels(ids: Any, target: Any) -> Any:
    import numpy as np

    if np.ndim(target):
        return target
    labels = np.append(ids[1:], target)
    labels[labels <= MASK] = IGNORE_INDEX
    return labels
