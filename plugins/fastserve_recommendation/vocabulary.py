"""The vocabulary of items in a model folder, which takes the place of a text tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import read_json, write_json
from fastserve_core.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

ITEMS_FILE, COUNTS_FILE = "vocab.json", "vocab_counts.json"
"""The numbers of the items by id, and the list of their counts in the training data, the most frequent item first."""
TABLE = "embeddings.word_embeddings"
"""The path of the item table in a model."""
PADDING, MASK, FIRST_ITEM = 0, 1, 2
"""The rows of the item table before the first item."""


class Vocabulary:
    """The items that a model knows, the most frequent one in its training data first.

    Args:
        ids: The ids of the items, which are texts.
        counts: How often each occurred.
    """

    def __init__(self, ids: Sequence[str], counts: Sequence[int]) -> None:
        self.ids, self.counts = list(ids), list(counts)
        self.numbers = {item: number for number, item in enumerate(self.ids, FIRST_ITEM)}

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def learn(cls, items: Iterable[str], limit: int, others: Iterable[str] = ()) -> Vocabulary:
        """Count items and keep the most frequent ones; ties are in the order of the ids.

        Args:
            items: The items of the training data, as often as they occur.
            limit: The number of items to keep at most.
            others: Items that may not occur.
        """
        counts = Counter(items)
        counts.update(dict.fromkeys(others, 0))
        found = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]
        return cls([item for item, _ in found], [count for _, count in found])

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """Read the vocabulary of a model folder.

        Raises:
            ModelError: The folder has none, or its files do not belong together.
        """
        if not has_vocabulary(folder):
            raise ModelError(f"{folder} has no vocabulary of items: choose model=sasrec or model=bert4rec")
        numbers, counts = read_json(folder / ITEMS_FILE), read_json(folder / COUNTS_FILE)
        ids = sorted(numbers, key=numbers.__getitem__)
        if len(ids) != len(counts) or [numbers[item] for item in ids] != list(range(FIRST_ITEM, FIRST_ITEM + len(ids))):
            raise ModelError(f"{folder}: {ITEMS_FILE} and {COUNTS_FILE} are damaged or of different models")
        return cls(ids, counts)

    def save(self, folder: Path) -> None:
        """Write the vocabulary into a model folder."""
        write_json(folder / ITEMS_FILE, self.numbers)
        write_json(folder / COUNTS_FILE, self.counts)

    @cached_property
    def shares(self) -> np.ndarray[Any, Any]:
        """The share of each item in the training data, in single precision."""
        import numpy as np

        counts = np.asarray(self.counts, dtype=np.float32)
        shares: np.ndarray[Any, Any] = counts / counts.sum()
        return shares


def has_vocabulary(folder: Path) -> bool:
    """Return whether a model folder has the files of a vocabulary of items."""
    return (folder / ITEMS_FILE).is_file() and (folder / COUNTS_FILE).is_file()
