"""The probabilities of a word with several tokens, by the strategies of the pipelines of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastserve_core.tasks import log_softmax

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, Any]

STRATEGIES = ("none", "simple", "first", "average", "max")
"""``first`` reads the first token of a word, on which the model was trained; so does ``simple``. ``average`` is the
mean of all tokens, ``max`` the surest one. ``none`` reads the first one and does not group words to entities."""


def word_log_probabilities(logits: Matrix, first_tokens: Sequence[int], strategy: str) -> Matrix:
    """Return the logarithms of the probabilities of each word's tags, of shape (words, tags).

    Args:
        logits: Those of all tokens, of shape (tokens, tags).
        first_tokens: The first token of each word, ascending.
        strategy: One of ``STRATEGIES``.
    """
    import numpy as np

    starts = list(first_tokens)
    if strategy not in ("average", "max"):
        return log_softmax(logits[starts].astype(np.float64))
    logs, ends = log_softmax(logits.astype(np.float64)), [*starts[1:], len(logits)]
    if strategy == "max":
        best = logs.max(axis=-1)
        surest: Matrix = logs[[start + int(best[start:end].argmax()) for start, end in zip(starts, ends, strict=True)]]
        return surest
    counts = np.subtract(ends, starts)[:, None]
    averages: Matrix = np.log(np.add.reduceat(np.exp(logs), starts) / counts)
    return averages
