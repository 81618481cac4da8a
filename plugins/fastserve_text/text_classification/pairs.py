"""Pairs of texts of one label, drawn when they are needed: the examples of contrastive training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fastserve_core.tasks import Encoded
from fastserve_text.examples import Examples, seed_number

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, Any]

ALONE = -1
"""The partner of a row without label."""


class Pairs(Examples):
    """Each row with another one of its label, which the seed draws; the pair is put together when it is asked for.

    The only row of a label is its own partner, which dropout makes another view of it (Gao et al. 2021). A row
    without label has no partner. The draw takes 16 bytes a row, however many pairs there are.

    Args:
        encoded: The rows.
        seed: Another seed draws other partners.
    """

    def __init__(self, encoded: Sequence[Encoded], seed: str) -> None:
        import numpy as np

        self.encoded = encoded
        labels = np.fromiter((row.target for row in encoded), np.int64, len(encoded))
        self.partners = _draw_partners(labels, np.random.default_rng(seed_number(seed)))
        known = getattr(encoded, "lengths", None)
        lengths = np.asarray(known if known is not None else [len(row) for row in encoded], dtype=np.int64)
        self.lengths = lengths + np.where(self.partners == ALONE, 0, lengths[self.partners])

    @override
    def make(self, number: int) -> Encoded:
        row, partner = self.encoded[number], int(self.partners[number])
        return row if partner == ALONE else Encoded(row.inputs, row.target, Partner(self.encoded[partner]))


class Partner:
    """The second text of a pair, as the ``decode_state`` of the first."""

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded


def split_pairs(batch: Sequence[Encoded]) -> list[Encoded]:
    """Return all texts of a batch: the rows, then the partners of those that have one."""
    return [*batch, *(row.decode_state.encoded for row in batch if isinstance(row.decode_state, Partner))]


def _draw_partners(labels: Numbers, generator: np.random.Generator) -> Numbers:
    """Return the number of another row of each row's label.

    Args:
        labels: The number of the label of each row, of shape (rows,); negative if it has none.
        generator: The source of the draw.
    """
    import numpy as np

    order = np.argsort(labels, kind="stable")
    _, starts, groups, counts = np.unique(labels[order], return_index=True, return_inverse=True, return_counts=True)
    start, count = starts[groups], counts[groups]
    position = np.arange(len(labels)) - start
    shift = 1 + (generator.random(len(labels)) * (count - 1)).astype(np.int64)
    partners = np.empty(len(labels), dtype=np.int64)
    partners[order] = order[start + (position + shift) % count]
    return np.where(labels < 0, ALONE, partners)
