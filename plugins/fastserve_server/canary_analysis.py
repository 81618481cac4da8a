"""Canary analysis: compares a candidate's answers and times with those of the served model."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median


class CanaryAnalysis:
    """Compares the last answers and requests that both models had.

    Args:
        window: Number of answers, and of requests, to compare.
        max_disagreement: Maximum share of answers that may differ.
        max_slowdown: Maximum ratio of the candidate's median time to the model's.
    """

    def __init__(self, window: int, max_disagreement: float, max_slowdown: float) -> None:
        self.window, self._max_disagreement, self._max_slowdown = window, max_disagreement, max_slowdown
        self._differences = deque[bool](maxlen=window)
        self._seconds = deque[tuple[float, float]](maxlen=window)

    def record_comparison(self, agreements: Sequence[bool], model_s: float, candidate_s: float) -> None:
        """Record a request that both models answered.

        Args:
            agreements: For each answer, whether both models gave the same one.
            model_s: Time of the model, in seconds.
            candidate_s: Time of the candidate, in seconds.
        """
        self._differences.extend(not same for same in agreements)
        self._seconds.append((model_s, candidate_s))

    def record_failure(self, answers: int) -> None:
        """Record a request for so many answers that the candidate failed to give."""
        self._differences.extend([True] * answers)

    @property
    def disagreement(self) -> float | None:
        """Share of the answers that differ or failed; ``None`` before there are any."""
        return sum(self._differences) / len(self._differences) if self._differences else None

    @property
    def median_seconds(self) -> tuple[float, float] | None:
        """Median time of a request, of the model and of the candidate; ``None`` before there are any."""
        if not self._seconds:
            return None
        model, candidate = zip(*self._seconds, strict=True)
        return median(model), median(candidate)

    def violation(self) -> str | None:
        """Return the limit that the candidate violates, as a message; ``None`` if it violates none."""
        different, medians = sum(self._differences), self.median_seconds
        if different > self._max_disagreement * self.window:
            limit = f"candidate_max_disagreement={self._max_disagreement:g}"
            return f"{different} of its last {len(self._differences)} answers differed or failed ({limit})"
        if medians is None or len(self._seconds) < self.window or medians[1] <= self._max_slowdown * medians[0]:
            return None
        limit = f"candidate_max_slowdown={self._max_slowdown:g}"
        model_ms, candidate_ms = (f"{1000 * seconds:.1f} ms" for seconds in medians)
        return f"its median time of {self.window} requests is {candidate_ms}, and the model's {model_ms} ({limit})"
