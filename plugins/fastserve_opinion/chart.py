"""A chart of shares by day as SVG: lines with intervals, the band of an alarm, and the alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from fastserve_opinion.alarms import Alarm, AlarmRule
from fastserve_opinion.shares import DailyCounts

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 240, 44, 28, 10, 24
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours that people with any colour vision tell apart (Okabe & Ito 2008)."""
MAX_DATES = 8


@dataclass(frozen=True)
class Point:
    """A share on the chart, in pixels; ``low`` and ``high`` are the ends of its interval."""

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class Line:
    """The shares of a label: its points, and the outline of its band."""

    label: str
    color: str
    points: Sequence[Point]
    band: str

    @property
    def path(self) -> str:
        """The points as an SVG polyline takes them."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


@dataclass(frozen=True)
class Chart:
    """All shapes of one target's chart."""

    lines: Sequence[Line]
    dates: Sequence[tuple[float, str]]
    marks: Sequence[tuple[float, float, str]]
    levels: Sequence[tuple[float, str]]


def draw_chart(counts: DailyCounts, target: str, rule: AlarmRule, alarms: Sequence[Alarm]) -> Chart:
    """Lay out the chart of a target.

    Args:
        counts: The counts.
        target: The target.
        rule: Which bands are drawn.
        alarms: The alarms of the target.
    """
    days = counts.days(target)
    span = max((days[-1] - days[0]).days, 1)

    def x(day: date) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((day - days[0]).days / span)

    lines = []
    for number, label in enumerate(counts.labels):
        points, outline = [], list[tuple[float, float, float]]()
        for day in days:
            share = counts.share(target, label, day)
            low, high = share.interval
            title = f"{day}: {label} {share.value:.1%} ({low:.1%} to {high:.1%}) of {share.posts} posts"
            points.append(Point(x(day), _y(share.value), _y(low), _y(high), title))
            before = counts.history(target, label, day, rule.days) if rule.label in (None, label) else None
            if before is not None and before.posts >= rule.min_posts:
                outline.append((x(day), _y(before.interval[0]), _y(before.interval[1])))
        lines.append(Line(label, COLORS[number % len(COLORS)], points, _join(outline)))
    step = max(1, span // MAX_DATES)
    dates = [(x(days[0] + timedelta(days=number)), f"{days[0] + timedelta(days=number):%m-%d}")
             for number in range(0, (days[-1] - days[0]).days + 1, step)]  # fmt: skip
    marks = [(x(date.fromisoformat(alarm.day)), _y(alarm.share), str(alarm)) for alarm in alarms]
    return Chart(lines, dates, marks, [(_y(level / 100), f"{level}%") for level in range(0, 101, 25)])


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def _join(outline: Sequence[tuple[float, float, float]]) -> str:
    """Return the polygon round a band."""
    edge = [(x, low) for x, low, _ in outline] + [(x, high) for x, _, high in reversed(outline)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
