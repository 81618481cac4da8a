"""Plots of the tuner's trials and of the training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from fastserve_core.events import TrialFinished
from fastserve_observers.axes import (
    BOTTOM,
    HEIGHT,
    LETTER_WIDTH,
    RIGHT,
    WIDTH,
    Axes,
    compute_range,
    draw_line,
    draw_text,
    render_svg,
)
from fastserve_observers.formatting import format_count, format_value, to_finite_float
from fastserve_observers.history import Point, TrainingCurves
from fastserve_observers.quality import format_metric_name, format_tick, is_fraction

COLOR_COUNT = 4
MAX_DOTS = 20
"""Lines with at most this number of points show each point."""


def draw_trials(trials: Sequence[TrialFinished]) -> str:
    """Plot each trial's score and the best score so far; empty for fewer than two scores."""
    scored = [(trial.number + 1, score) for trial in trials if (score := to_finite_float(trial.score)) is not None]
    if len(scored) < 2:
        return ""
    axes = Axes(
        (0.5, max(trial.number for trial in trials) + 1.5),
        compute_range([score for _, score in scored]),
        "trial",
        "score, higher is better",
        lambda value: format_value(value) if value == int(value) else "",
        format_value,
    )
    bests = list(accumulate((score for _, score in scored), max))
    stairs: list[Point] = []
    for (number, _), best in zip(scored, bests, strict=True):
        stairs += [(axes.map_x(number), stairs[-1][1])] if stairs else []
        stairs.append((axes.map_x(number), axes.map_y(best)))
    parts = [*axes.draw_frame(), draw_line(stairs, "front")]
    for number, score in scored:
        kind = "best" if score == bests[-1] else "other"
        parts.append(f'<circle class="dot {kind}" cx="{axes.map_x(number):.1f}" cy="{axes.map_y(score):.1f}" r="4.5">')
        parts.append(f"<title>trial {number}: {format_value(score)}</title></circle>")
    failed = [trial.number + 1 for trial in trials if to_finite_float(trial.score) is None]
    parts += [draw_text(axes.map_x(number), HEIGHT - BOTTOM - 5, "x", "failed middle") for number in failed]
    return render_svg("The score of each trial", parts)


def draw_curves(curves: TrainingCurves) -> list[str]:
    """Plot the losses over the steps, then the validation metrics: fractions in one plot, others in one plot each."""
    losses = {"training loss": curves.loss.points}
    groups: dict[str, dict[str, list[Point]]] = {}
    for name, metric in curves.metrics.items():
        if name == "loss":
            losses["validation loss"] = metric.points
        else:
            group = "on the validation split" if is_fraction(name) else f"validation {format_metric_name(name)}"
            groups.setdefault(group, {})[name] = metric.points
    return [plot for title, lines in [("loss", losses), *groups.items()] if (plot := _draw_lines(title, lines))]


def _draw_lines(title: str, lines: Mapping[str, list[Point]]) -> str:
    nonempty = {name: points for name, points in lines.items() if points}
    all_points = [point for points in nonempty.values() for point in points]
    if len({x for x, _ in all_points}) < 2:
        return ""
    axes = _make_axes(title, all_points, percent=all(map(is_fraction, nonempty)))
    parts = axes.draw_frame()
    legend = float(WIDTH - RIGHT)
    for index, (name, points) in enumerate(nonempty.items()):
        colour = f"s{index % COLOR_COUNT}"
        centres = [(axes.map_x(x), axes.map_y(y)) for x, y in points]
        parts.append(draw_line(centres, f"line {colour}"))
        if len(points) <= MAX_DOTS:
            parts += [f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in centres]
        parts.append(draw_text(legend, 14, format_metric_name(name), f"key {colour} end"))
        legend -= LETTER_WIDTH * len(name) + 20
    return render_svg(f"{title} over the steps", parts)


def _make_axes(title: str, points: Sequence[Point], percent: bool) -> Axes:
    return Axes(
        compute_range([x for x, _ in points], 0.03, zero=True),
        compute_range([y for _, y in points], zero=title == "loss"),
        "step",
        title,
        format_count,
        lambda value: format_tick("accuracy" if percent else title, value),
    )
