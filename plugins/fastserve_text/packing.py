"""Texts one after another in blocks of equal length, so that nothing is padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from fastserve_core.tasks import Encoded
from fastserve_text.examples import Examples, seed_number


class PackedSequences(Examples):
    """The texts in an order drawn by the seed, an end-of-text token after each, cut every ``length`` tokens.

    A text may continue in the next block, and in a block the tokens see those of the texts before theirs, as in
    GPT-2's training (Radford et al. 2019). The last block is shorter; one of a single token is left out, because
    nothing follows it.
    """

    def __init__(self, texts: Sequence[Encoded], length: int, end_of_text: int, seed: str) -> None:
        import numpy as np

        known = getattr(texts, "lengths", None)
        sizes = np.asarray([len(one) for one in texts] if known is None else known, dtype=np.int64) + 1
        self.texts, self.length, self.end_of_text = texts, length, end_of_text
        self.order = np.random.default_rng(seed_number(seed)).permutation(len(sizes))
        self.starts = np.concatenate([[0], np.cumsum(sizes[self.order])])
        full, rest = divmod(int(self.starts[-1]), length)
        self.lengths = np.asarray([length] * full + [rest] * (rest > 1), dtype=np.int64)

    @override
    def make(self, number: int) -> Encoded:
        import numpy as np

        begin = number * self.length
        end = begin + int(self.lengths[number])
        place = int(self.starts.searchsorted(begin, side="right")) - 1
        parts = []
        while place < len(self.order) and self.starts[place] < end:
            ids = np.append(self.texts[int(self.order[place])].inputs["input_ids"], self.end_of_text)
            start = int(self.starts[place])
            parts.append(ids[max(begin - start, 0) : end - start])
            place += 1
        block: Any = np.concatenate(parts).astype(np.int64)
        return Encoded({"input_ids": block, "attention_mask": np.ones_like(block)}, block)
