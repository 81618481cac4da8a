"""The plot of the candidates: latency against quality, a bubble's area the size, the best ones joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise

from fastserve_observers.axes import BOTTOM, HEIGHT, LEFT, LETTER, RIGHT, TOP, WIDTH, Axes, path, span, svg, text
from fastserve_observers.formatting import format_value, milliseconds, size
from fastserve_observers.quality import lower_is_better, metric_label, show_score, show_tick
from fastserve_observers.run_summary import RunSummary, Stage

LARGEST, SMALLEST = 22.0, 4.0
DASHES = 24
Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """A measured model in the plot: its figures, and where and how large it is drawn."""

    stage: Stage
    latency: float
    score: float
    error: float
    x: float = 0.0
    y: float = 0.0
    radius: float = 0.0
    whisker: float = 0.0

    @property
    def box(self) -> Box:
        return (self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius)


def front(outcome: RunSummary) -> str:
    """Empty for fewer than two measured models.

    The quality is the test split's; beside a tuner's recipes, which were chosen by the validation split, it is that's.
    """
    split = "validation" if outcome.recipes else "test"
    drawn = [*outcome.recipes, *outcome.measured]
    figures = [mark for one in drawn if (mark := _figures(outcome, one, split)) is not None]
    if len(figures) < 2:
        return ""
    axes = _axes(outcome.metric, figures, split)
    marks = _placed(figures, axes)
    joined = _joined(marks, lower_is_better(outcome.metric))
    parts = [*axes.frame(), path(joined, "front")]
    parts += [_whisker(one) for one in marks if one.error and one.stage.stage != "trial"]
    parts += [_marker(outcome, one) for one in marks]
    taken = [*(one.box for one in marks), *_dashes(joined)]
    parts += [_label(one, taken) for one in marks if one.stage.stage != "trial"]
    return svg("Latency against quality of every measured model", parts)


def _figures(outcome: RunSummary, stage: Stage, split: str) -> Mark | None:
    measured = "quality" if split == "test" else "quality_validation"
    latency, score = stage.measure("latency_ms_p50"), stage.score(outcome.metric, measured)
    if latency is None or score is None:
        return None
    return Mark(stage, latency, score, outcome.error(stage, split) or 0.0)


def _axes(metric: str, marks: Sequence[Mark], split: str) -> Axes:
    lower = lower_is_better(metric)
    return Axes(
        span([one.latency for one in marks], 0.15, zero=True),
        span([one.score + sign * one.error for one in marks for sign in (-1, 1)], 0.16),
        "latency of one input, p50, ms",
        f"{metric_label(metric)} on the {split} split" + (", lower is better" if lower else ""),
        format_value,
        lambda value: show_tick(metric, value),
        upside_down=lower,
    )


def _placed(marks: Sequence[Mark], axes: Axes) -> list[Mark]:
    sizes = [one.stage.measure("size_bytes") or 0.0 for one in marks]
    largest = max(sizes) or 1.0
    placed = []
    for one, bytes_ in zip(marks, sizes, strict=True):
        y, radius = axes.at_y(one.score), max(SMALLEST, LARGEST * math.sqrt(bytes_ / largest))
        radius = SMALLEST if one.stage.stage == "trial" else radius
        whisker = abs(axes.at_y(one.score + one.error) - y)
        placed.append(replace(one, x=axes.at_x(one.latency), y=y, radius=radius, whisker=whisker))
    return placed


def _joined(marks: Sequence[Mark], lower: bool) -> list[Point]:
    """The places of the models that no other accepted one beats in both."""
    sign = -1.0 if lower else 1.0
    best, kept = -math.inf, []
    for one in sorted(marks, key=lambda one: (one.latency, -sign * one.score)):
        if one.stage.status != "rejected" and sign * one.score > best:
            best = sign * one.score
            kept.append((one.x, one.y))
    return kept


def _dashes(joined: Sequence[Point]) -> list[Box]:
    """Small boxes along the line, for labels to keep away from."""
    boxes = []
    for (x, y), (to_x, to_y) in pairwise(joined):
        for place in range(DASHES):
            share = place / DASHES
            boxes.append((x + share * (to_x - x), y + share * (to_y - y)))
    return [(x - 2, y - 2, x + 2, y + 2) for x, y in boxes]


def _whisker(mark: Mark) -> str:
    """The sampling error."""
    top, bottom = mark.y - mark.whisker, mark.y + mark.whisker
    return f'<line class="whisker" x1="{mark.x:.1f}" x2="{mark.x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'


def _marker(outcome: RunSummary, mark: Mark) -> str:
    stage, bytes_ = mark.stage, mark.stage.measure("size_bytes")
    kind = "rejected" if stage.status == "rejected" else "best" if stage is outcome.best else "other"
    kind = "trial" if stage.stage == "trial" else kind
    figures = [show_score(outcome.metric, mark.score), milliseconds(mark.latency)]
    figures += [size(bytes_)] if bytes_ is not None else []
    told = escape(f"{stage.name} ({stage.status}): {', '.join(figures)}")
    circle = f'<circle class="bubble {kind}" cx="{mark.x:.1f}" cy="{mark.y:.1f}" r="{mark.radius:.1f}">'
    cross = _cross(mark) if kind == "rejected" else ""
    return f"{circle}<title>{told}</title></circle>{cross}"


def _cross(mark: Mark) -> str:
    arm = max(4.0, 0.5 * mark.radius)
    left, right, top, bottom = mark.x - arm, mark.x + arm, mark.y - arm, mark.y + arm
    return (
        f'<path class="cross" d="M{left:.1f} {top:.1f}L{right:.1f} {bottom:.1f}'
        f'M{left:.1f} {bottom:.1f}L{right:.1f} {top:.1f}"/>'
    )


def _label(mark: Mark, taken: list[Box]) -> str:
    """The plugin's name beside its bubble, where it covers least of what is taken; what it takes is added."""
    wide, name = LETTER * len(mark.stage.plugin), mark.stage.plugin
    beside, beyond = mark.radius + 6, max(mark.radius, mark.whisker)
    spots = [
        (mark.x + beside, mark.y + 4, 0.0, ""),
        (mark.x - beside, mark.y + 4, 1.0, " end"),
        (mark.x, mark.y - beyond - 6, 0.5, " middle"),
        (mark.x, mark.y + beyond + 14, 0.5, " middle"),
    ]
    boxes: list[Box] = [(x - share * wide, y - 11, x + (1 - share) * wide, y + 3) for x, y, share, _ in spots]
    others = [box for box in taken if box != mark.box]
    costs = [1e4 * _overflow(box) + sum(_overlap(box, other) for other in others) for box in boxes]
    place = costs.index(min(costs))
    taken.append(boxes[place])
    x, y, _, anchor = spots[place]
    return text(x, y, name, "label" + anchor)


def _overflow(box: Box) -> bool:
    return box[0] < LEFT or box[2] > WIDTH - RIGHT or box[1] < TOP - 14 or box[3] > HEIGHT - BOTTOM


def _overlap(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0 and high > 0 else 0.0
