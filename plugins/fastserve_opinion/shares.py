"""Counts of labels by target and day, and the intervals of their shares."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

Z = 1.96
"""The quantile of the normal distribution for intervals of 95%."""


@dataclass(frozen=True)
class Share:
    """The share of a label among posts, with its interval of 95% (Wilson 1927).

    Attributes:
        count: The number of posts with the label.
        posts: The number of posts, at least one.
    """

    count: int
    posts: int

    @property
    def value(self) -> float:
        """The share."""
        return self.count / self.posts

    @property
    def interval(self) -> tuple[float, float]:
        """The lower and the upper bound."""
        squared = Z * Z / self.posts
        centre = (self.value + squared / 2) / (1 + squared)
        half = Z / (1 + squared) * math.sqrt(self.value * (1 - self.value) / self.posts + squared / (4 * self.posts))
        low, high = max(0.0, centre - half), min(1.0, centre + half)
        return (0.0 if not self.count else low), (1.0 if self.count == self.posts else high)


class DailyCounts:
    """The labels of posts by target and day.

    Attributes:
        labels: The labels, in the order of the model.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self.labels = list(labels)
        self._counts: defaultdict[str, dict[date, Counter[str]]] = defaultdict(dict)

    def add(self, target: str, day: date, label: str) -> None:
        """Count a post."""
        self._counts[target].setdefault(day, Counter())[label] += 1
        if label not in self.labels:
            self.labels.append(label)

    def targets(self) -> list[str]:
        """Return the targets, those with most posts first."""
        return sorted(self._counts, key=lambda target: (-self._total(target), target))

    def days(self, target: str) -> list[date]:
        """Return the days with posts on a target, in order."""
        return sorted(self._counts[target])

    def share(self, target: str, label: str, day: date) -> Share:
        """Return the share of a label on a day that has posts."""
        counts = self._counts[target][day]
        return Share(counts[label], counts.total())

    def history(self, target: str, label: str, day: date, days: int) -> Share | None:
        """Return the share of a label on the days before a day together; ``None`` if these have no posts."""
        before = (day - timedelta(days=number) for number in range(1, days + 1))
        found = [self._counts[target][one] for one in before if one in self._counts[target]]
        posts = sum(counts.total() for counts in found)
        return Share(sum(counts[label] for counts in found), posts) if posts else None

    def _total(self, target: str) -> int:
        return sum(counts.total() for counts in self._counts[target].values())
