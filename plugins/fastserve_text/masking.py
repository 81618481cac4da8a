"""The choice of the tokens that are hidden from a masked language model, and of their substitutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve_core.tasks import IGNORE_INDEX

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, Any]

MASKED, REPLACED = 0.8, 0.1
"""Of the chosen tokens, how many become the mask and how many any other token; the rest stay as they are."""


@dataclass(frozen=True)
class Masking:
    """Masked language modelling (Devlin et al. 2018), by whole words or by single tokens.

    ``special`` marks the token ids that are never hidden; ``ordinary`` are the other ids.
    """

    fraction: float
    whole_word: bool
    mask: int
    special: Numbers
    ordinary: Numbers

    def hide(self, ids: Numbers, begins: Numbers, draw: np.random.Generator) -> tuple[Numbers, Numbers]:
        """The ids with some hidden, and the labels: the true id where one was chosen, ``IGNORE_INDEX`` elsewhere.

        ``begins`` marks the tokens that begin a word. Words are chosen in random order as long as
        they fit into ``fraction`` of the tokens; one is always chosen.
        """
        import numpy as np

        allowed = ~self.special[ids]
        words = np.cumsum(begins if self.whole_word else np.ones(len(ids), dtype=bool))
        places = np.flatnonzero(self._chosen(words, allowed, draw)[words] & allowed)
        labels = np.full(len(ids), IGNORE_INDEX, dtype=np.int64)
        labels[places] = ids[places]
        dice = draw.random(len(places))
        hidden = ids.copy()
        hidden[places[dice < MASKED]] = self.mask
        others = places[(dice >= MASKED) & (dice < MASKED + REPLACED)]
        hidden[others] = self.ordinary[draw.integers(len(self.ordinary), size=len(others))]
        return hidden, labels

    def _chosen(self, words: Numbers, allowed: Numbers, draw: np.random.Generator) -> Numbers:
        """By word number, whether the word is chosen."""
        import numpy as np

        sizes = np.bincount(words[allowed], minlength=int(words[-1]) + 1)
        left = max(1, round(self.fraction * int(allowed.sum())))
        chosen = np.zeros(len(sizes), dtype=bool)
        order = draw.permutation(np.flatnonzero(sizes))
        for word, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
            if size <= left:
                chosen[word] = True
                left -= size
            if not left:
                break
        if len(order) and not chosen.any():
            chosen[order[0]] = True
        return chosen
