"""Plot of the models: latency against quality, with the size as area and the Pareto front as a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise

from fastserve_observers.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER_WIDTH,
    RIGHT,
    TOP,
    WIDTH,
    Axes,
    compute_range,
    draw_line,
    draw_text,
    render_svg,
)
from fastserve_observers.formatting import format_bytes, format_milliseconds, format_value
from fastserve_observers.quality import format_metric_name, format_score, format_tick, is_lower_better
from fastserve_observers.run_summary import RunSummary, Stage

MAX_RADIUS, MIN_RADIUS = 22.0, 4.0
BOXES_PER_SEGMENT = 24
Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """A measured model in the plot.

    Attributes:
        stage: Stage that made the model.
        latency: Latency of one input in ms, p50.
        score: Score of the main metric.
        error: Sampling error of the score.
        x: Coordinate of the centre.
        y: Coordinate of the centre.
        radius: Radius of the bubble.
        whisker: Length of the error bar on each side.
    """

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
        """Return the bounding box of the bubble."""
        return (self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius)


def draw_pareto_front(outcome: RunSummary) -> str:
    """Return the plot, or an empty string for fewer than two measured models.

    Quality is of the test split, or of the validation split if a tuner has chosen recipes by it.
    """
    split = "validation" if outcome.recipes else "test"
    stages = [*outcome.recipes, *outcome.measured]
    measured = [mark for stage in stages if (mark := _make_mark(outcome, stage, split)) is not None]
    if len(measured) < 2:
        return ""
    axes = _make_axes(outcome.metric, measured, split)
    marks = _place_marks(measured, axes)
    front = _find_front(marks, is_lower_better(outcome.metric))
    parts = [*axes.draw_frame(), draw_line(front, "front")]
    parts += [_draw_whisker(mark) for mark in marks if mark.error and mark.stage.stage != "trial"]
    parts += [_draw_marker(outcome, mark) for mark in marks]
    occupied = [*(mark.box for mark in marks), *_list_front_boxes(front)]
    parts += [_draw_label(mark, occupied) for mark in marks if mark.stage.stage != "trial"]
    return render_svg("Latency against quality of every measured model", parts)


def _make_mark(outcome: RunSummary, stage: Stage, split: str) -> Mark | None:
    measured = "quality" if split == "test" else "quality_validation"
    latency, score = stage.get_measure("latency_ms_p50"), stage.get_score(outcome.metric, measured)
    if latency is None or score is None:
        return None
    return Mark(stage, latency, score, outcome.get_sampling_error(stage, split) or 0.0)


def _make_axes(metric: str, marks: Sequence[Mark], split: str) -> Axes:
    lower = is_lower_better(metric)
    return Axes(
        compute_range([mark.latency for mark in marks], 0.15, zero=True),
        compute_range([mark.score + sign * mark.error for mark in marks for sign in (-1, 1)], 0.16),
        "latency of one input, p50, ms",
        f"{format_metric_name(metric)} on the {split} split" + (", lower is better" if lower else ""),
        format_value,
        lambda value: format_tick(metric, value),
        is_y_inverted=lower,
    )


def _place_marks(marks: Sequence[Mark], axes: Axes) -> list[Mark]:
    sizes = [mark.stage.get_measure("size_bytes") or 0.0 for mark in marks]
    largest = max(sizes) or 1.0
    placed = []
    for mark, bytes_ in zip(marks, sizes, strict=True):
        y, radius = axes.map_y(mark.score), max(MIN_RADIUS, MAX_RADIUS * math.sqrt(bytes_ / largest))
        radius = MIN_RADIUS if mark.stage.stage == "trial" else radius
        whisker = abs(axes.map_y(mark.score + mark.error) - y)
        placed.append(replace(mark, x=axes.map_x(mark.latency), y=y, radius=radius, whisker=whisker))
    return placed


def _find_front(marks: Sequence[Mark], lower: bool) -> list[Point]:
    """Return the centres of the accepted models that no other accepted model beats in both latency and quality."""
    sign = -1.0 if lower else 1.0
    best, front = -math.inf, []
    for mark in sorted(marks, key=lambda mark: (mark.latency, -sign * mark.score)):
        if mark.stage.status != "rejected" and sign * mark.score > best:
            best = sign * mark.score
            front.append((mark.x, mark.y))
    return front


def _list_front_boxes(front: Sequence[Point]) -> list[Box]:
    """Return small boxes along the line that labels should avoid."""
    boxes = []
    for (x, y), (to_x, to_y) in pairwise(front):
        for index in range(BOXES_PER_SEGMENT):
            share = index / BOXES_PER_SEGMENT
            boxes.append((x + share * (to_x - x), y + share * (to_y - y)))
    return [(x - 2, y - 2, x + 2, y + 2) for x, y in boxes]


def _draw_whisker(mark: Mark) -> str:
    """Draw the sampling error."""
    top, bottom = mark.y - mark.whisker, mark.y + mark.whisker
    return f'<line class="whisker" x1="{mark.x:.1f}" x2="{mark.x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'


def _draw_marker(outcome: RunSummary, mark: Mark) -> str:
    stage, bytes_ = mark.stage, mark.stage.get_measure("size_bytes")
    kind = "rejected" if stage.status == "rejected" else "best" if stage is outcome.best else "other"
    kind = "trial" if stage.stage == "trial" else kind
    figures = [format_score(outcome.metric, mark.score), format_milliseconds(mark.latency)]
    figures += [format_bytes(bytes_)] if bytes_ is not None else []
    title = escape(f"{stage.name} ({stage.status}): {', '.join(figures)}")
    circle = f'<circle class="bubble {kind}" cx="{mark.x:.1f}" cy="{mark.y:.1f}" r="{mark.radius:.1f}">'
    cross = _draw_cross(mark) if kind == "rejected" else ""
    return f"{circle}<title>{title}</title></circle>{cross}"


def _draw_cross(mark: Mark) -> str:
    arm = max(4.0, 0.5 * mark.radius)
    left, right, top, bottom = mark.x - arm, mark.x + arm, mark.y - arm, mark.y + arm
    return (
        f'<path class="cross" d="M{left:.1f} {top:.1f}L{right:.1f} {bottom:.1f}'
        f'M{left:.1f} {bottom:.1f}L{right:.1f} {top:.1f}"/>'
    )


def _draw_label(mark: Mark, occupied: list[Box]) -> str:
    """Draw the plugin's name beside its bubble with the least overlap, and add its box to ``occupied``."""
    width, name = LETTER_WIDTH * len(mark.stage.plugin), mark.stage.plugin
    beside, beyond = mark.radius + 6, max(mark.radius, mark.whisker)
    spots = [
        (mark.x + beside, mark.y + 4, 0.0, ""),
        (mark.x - beside, mark.y + 4, 1.0, " end"),
        (mark.x, mark.y - beyond - 6, 0.5, " middle"),
        (mark.x, mark.y + beyond + 14, 0.5, " middle"),
    ]
    boxes: list[Box] = [(x - share * width, y - 11, x + (1 - share) * width, y + 3) for x, y, share, _ in spots]
    others = [box for box in occupied if box != mark.box]
    costs = [1e4 * _is_outside(box) + sum(_compute_overlap(box, other) for other in others) for box in boxes]
    index = costs.index(min(costs))
    occupied.append(boxes[index])
    x, y, _, anchor = spots[index]
    return draw_text(x, y, name, "label" + anchor)


def _is_outside(box: Box) -> bool:
    return box[0] < LEFT or box[2] > WIDTH - RIGHT or box[1] < TOP - 14 or box[3] > HEIGHT - BOTTOM


def _compute_overlap(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return width * height if width > 0 and height > 0 else 0.0
