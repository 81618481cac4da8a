"""The best spans of the windows of a text, by their probabilities in the windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Logits = np.ndarray[Any, Any]

SPANS_PER_WINDOW = 20
"""The number of spans of a window that may be among the best of the text."""


@dataclass(frozen=True, slots=True)
class WindowLogits:
    """The logits of a window's body, of shape (tokens,), and where the body begins in that of the whole text.

    ``null`` is the sum of both logits of the first token, which stands for "no answer here" (Devlin et al. 2018).
    """

    first: int
    start: Logits
    end: Logits
    null: float


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens ``start`` to ``end`` (included) of the text, and the logarithm of their probability in their window."""

    start: int
    end: int
    log_probability: float


def best_spans(windows: Sequence[WindowLogits], max_tokens: int, count: int) -> tuple[list[Span], float]:
    """Return the best spans of all windows, and the logarithm of the probability that no window has the answer.

    Probabilities are those within a window, over its spans and "no answer here": logits of two windows cannot be
    compared. A span that two windows hold has the higher one. That of no answer is the lowest of all windows.

    Args:
        windows: The windows of one text.
        max_tokens: The length of the longest span.
        count: The number of spans.

    Returns:
        The spans, the best first, and the logarithm.
    """
    import numpy as np

    found: dict[tuple[int, int], float] = {}
    nulls = []
    for window in windows:
        sums = _sum_logits(window, max_tokens)
        flat = sums.ravel()
        total = np.logaddexp(np.logaddexp.reduce(flat), window.null)
        nulls.append(float(window.null - total))
        best = np.argpartition(flat, -min(SPANS_PER_WINDOW, flat.size))[-min(SPANS_PER_WINDOW, flat.size) :]
        for place in best[np.isfinite(flat[best])].tolist():
            start, length = divmod(place, sums.shape[1])
            key = window.first + start, window.first + start + length
            found[key] = max(found.get(key, -np.inf), float(flat[place] - total))
    spans = [Span(start, end, value) for (start, end), value in found.items()]
    spans.sort(key=lambda span: (-span.log_probability, span.start, span.end))
    return spans[:count], min(nulls)


def _sum_logits(window: WindowLogits, max_tokens: int) -> Logits:
    """Return the sums of both logits, of shape (tokens, lengths): column 0 is for spans of one token."""
    import numpy as np

    width = min(max_tokens, len(window.start))
    ends = np.concatenate([window.end, np.full(width - 1, -np.inf, dtype=window.end.dtype)])
    sums: Logits = window.start[:, None] + np.lib.stride_tricks.sliding_window_view(ends, width)
    return sums.astype(np.float64)
