"""Whether a candidate may go on: its answers and its time beside those of the model that is served."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Any


class CanaryAnalysis:
    """Remembers the last ``window`` answers and requests that both models had.

    ``most_other`` is the share of answers that may differ, ``most_slower`` what the median time of the candidate may be
    of the model's.
    """

    def __init__(self, window: int, most_other: float, most_slower: float) -> None:
        self.window, self._most_other, self._most_slower = window, most_other, most_slower
        self._differ = deque[bool](maxlen=window)
        self._seconds = deque[tuple[float, float]](maxlen=window)

    def compared(self, same: Sequence[bool], model_s: float, candidate_s: float) -> None:
        """A request that both answered, and which of its answers were the same."""
        self._differ.extend(not one for one in same)
        self._seconds.append((model_s, candidate_s))

    def failed(self, answers: int) -> None:
        """A request that the candidate could not answer."""
        self._differ.extend([True] * answers)

    @property
    def disagreement(self) -> float | None:
        """The share of the answers that differ or failed; ``None`` before there are any."""
        return sum(self._differ) / len(self._differ) if self._differ else None

    @property
    def times(self) -> tuple[float, float] | None:
        """The median seconds of a request, of the model and of the candidate."""
        if not self._seconds:
            return None
        model, candidate = zip(*self._seconds, strict=True)
        return median(model), median(candidate)

    def violation(self) -> str | None:
        """Why the candidate may not go on, as far as it was seen."""
        differ, times = sum(self._differ), self.times
        if differ > self._most_other * self.window:
            limit = f"candidate_max_disagreement={self._most_other:g}"
            return f"{differ} of its last {len(self._differ)} answers were others, or none ({limit})"
        if times is not None and len(self._seconds) == self.window and times[1] > self._most_slower * times[0]:
            limit = f"candidate_max_slowdown={self._most_slower:g}"
            model, own = (f"{1000 * one:.1f} ms" for one in times)
            return f"it took {own} for a request (the median of {self.window}), and the model {model} ({limit})"
        return None


def decision_of(answer: Any) -> Any:
    """What of an answer is its decision: all but the numbers that say how sure it is."""
    if isinstance(answer, dict):
        kept = {name: decision_of(value) for name, value in answer.items() if not isinstance(value, float)}
        return {name: value for name, value in kept.items() if value != {}}
    return [decision_of(one) for one in answer] if isinstance(answer, list) else answer
