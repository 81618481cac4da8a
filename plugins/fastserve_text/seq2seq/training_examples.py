"""The examples of an epoch, with one of each row's targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fastserve_core.tasks import Encoded
from fastserve_text.examples import Examples
from fastserve_text.seq2seq.encoding import choose_target


class EpochExamples(Examples):
    """The rows with one target each, which the seed chooses."""

    def __init__(self, encoded: Sequence[Encoded], seed: str) -> None:
        self._encoded, self._seed = encoded, seed
        known = getattr(encoded, "lengths", None)
        self.lengths = np.asarray(known if known is not None else [len(one) for one in encoded], dtype=np.int64)

    def make(self, number: int) -> Encoded:
        """Return the row with its target of this epoch."""
        one = self._encoded[number]
        return one if one.target is None else replace(one, target=choose_target(one.target, f"{self._seed}-{number}"))
