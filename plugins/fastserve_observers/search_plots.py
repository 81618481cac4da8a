"""Plots of a tuner's search: trials across their options, their curves, and the importance of each option."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from fastserve_core.events import TrialFinished
from fastserve_observers.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axes,
    compute_range,
    draw_line,
    draw_text,
    render_svg,
)
from fastserve_observers.formatting import format_count, format_value, to_finite_float

MIN_TRIALS = {"coordinates": 3, "importance": 8}
"""Minimum number of scored trials for a meaningful plot."""
MAX_OPTIONS = 7
MARGIN = 20
"""Margin to the left of the first axis; ticks are on its right."""
LOG_SCALE_RATIO = 20.0
"""Minimum ratio of the largest to the smallest value for a logarithmic scale."""

Options = Mapping[str, Any]


def draw_parallel_coordinates(trials: Sequence[TrialFinished]) -> str:
    """Plot each trial as a line through its options' values to its score.

    Returns:
        SVG, or an empty string if there are too few trials or fewer than two varied options.
    """
    scored = [(trial.options, score) for trial in trials if (score := to_finite_float(trial.score)) is not None]
    names = _find_varied_options([options for options, _ in scored])[:MAX_OPTIONS]
    if len(scored) < MIN_TRIALS["coordinates"] or len(names) < 2:
        return ""
    scales = [_make_scale([options.get(name) for options, _ in scored]) for name in names]
    scales.append(_make_scale([score for _, score in scored]))
    rows = [[*(options.get(name) for name in names), score] for options, score in scored]
    parts: list[str] = []
    order = sorted(range(len(rows)), key=lambda index: scored[index][1])
    for rank, index in enumerate(order):  # the best are drawn last, above the others
        centres = [
            (_map_column(column, len(scales)), _map_height(scale(value)))
            for column, (scale, value) in enumerate(zip(scales, rows[index], strict=True))
            if value is not None
        ]
        parts.append(
            draw_line(centres, "line s1" if rank == len(order) - 1 else f"line s0 faint{3 * rank // len(order)}")
        )
    for column, name in enumerate([*names, "score"]):
        parts += _draw_axis(column, len(scales), name.rpartition(".")[2], [row[column] for row in rows])
    return render_svg("Every trial across its options", parts)


def draw_trial_curves(curves: Mapping[int, Sequence[Sequence[float]]]) -> str:
    """Plot the scores of trials over their steps, if trials were scored more than once.

    Args:
        curves: [step, score] pairs by trial.
    """
    long = {number: points for number, points in curves.items() if len(points) > 1}
    if not long:
        return ""
    all_points = [point for points in curves.values() for point in points]
    axes = Axes(
        compute_range([x for x, _ in all_points], 0.03, zero=True), compute_range([y for _, y in all_points]),
        "step", "score, higher is better", format_count, format_value,
    )  # fmt: skip
    best = max(long, key=lambda number: (long[number][-1][0], long[number][-1][1]))
    parts = axes.draw_frame()
    for number, points in sorted(curves.items(), key=lambda item: item[0] == best):
        colour = "s1" if number == best else "s0"
        centres = [(axes.map_x(x), axes.map_y(y)) for x, y in points]
        parts.append(draw_line(centres, f"line {colour}" if number == best else f"line {colour} faint1"))
        title = f"<title>trial {number + 1}</title>"
        parts += [f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3">{title}</circle>' for x, y in centres]
    return render_svg("The score of each trial over its steps", parts)


def compute_importance(trials: Sequence[TrialFinished]) -> list[tuple[str, float]]:
    """Return the importance of each option, the largest first.

    Importance is the share of the variance of the scores' ranks that the option alone explains (adjusted R squared,
    near 0 for random scores). The fit is a parabola of the ranks for numbers, and the group means for choices.

    Returns:
        Pairs of option and share; empty for too few trials.
    """
    scored = [(trial.options, score) for trial in trials if (score := to_finite_float(trial.score)) is not None]
    if len(scored) < MIN_TRIALS["importance"]:
        return []
    ranks = _rank([score for _, score in scored])
    shares = [
        (name, _compute_explained_variance([options.get(name) for options, _ in scored], ranks))
        for name in _find_varied_options([options for options, _ in scored])
    ]
    return sorted(shares, key=lambda item: -item[1])


def _find_varied_options(options: Sequence[Options]) -> list[str]:
    """Return the options with different values across trials, in their order."""
    names = dict.fromkeys(name for trial in options for name in trial)
    return [name for name in names if len({json.dumps(trial.get(name)) for trial in options}) > 1]


# -- scales of the axes ------------------------------------------------------------------------------


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(to_finite_float(value) is not None for value in values if value is not None)


def _make_scale(values: Sequence[Any]) -> Callable[[Any], float]:
    """Return a function from a value to its position between 0 and 1."""
    known = [value for value in values if value is not None]
    if not _are_numbers(known):
        names = sorted({json.dumps(value) for value in known})
        return lambda value: names.index(json.dumps(value)) / max(1, len(names) - 1)
    low, high = min(known), max(known)
    if low == high:
        return lambda value: 0.5
    if low > 0 and high / low >= LOG_SCALE_RATIO:
        return lambda value: math.log(value / low) / math.log(high / low)
    return lambda value: (value - low) / (high - low)


def _map_column(index: int, columns: int) -> float:
    return MARGIN + (WIDTH - MARGIN - RIGHT - LEFT) * index / (columns - 1)


def _map_height(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def _draw_axis(index: int, columns: int, name: str, values: Sequence[Any]) -> list[str]:
    x, known = _map_column(index, columns), [value for value in values if value is not None]
    ticks = [min(known), max(known)] if _are_numbers(known) else sorted({json.dumps(value) for value in known})
    labels = [format_value(tick, 3).strip('"') for tick in ticks]
    parts = [f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>']
    parts.append(draw_text(x, HEIGHT - BOTTOM + (30 if index % 2 else 16), name, "name middle"))
    heights = [_map_height(rank / max(1, len(labels) - 1)) - 4 for rank in range(len(labels))]
    parts += [draw_text(x + 4, height, label, "tick halo") for height, label in zip(heights, labels, strict=True)]
    return parts


# -- importance of an option -------------------------------------------------------------------------


def _rank(values: Sequence[float]) -> list[float]:
    """Return ranks from 1 on; equal values share their mean rank."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def _compute_explained_variance(values: Sequence[Any], ranks: Sequence[float]) -> float:
    fitted, parameters = (
        _fit_parabola(values, ranks) if _are_numbers(values) and None not in values else _fit_means(values, ranks)
    )
    middle = fmean(ranks)
    total = sum((rank - middle) ** 2 for rank in ranks)
    residual = sum((rank - estimate) ** 2 for rank, estimate in zip(ranks, fitted, strict=True))
    freedom = len(ranks) - 1 - parameters
    if not total or freedom < 1:
        return 0.0
    return max(0.0, 1 - residual / total * (len(ranks) - 1) / freedom)


def _fit_means(values: Sequence[Any], ranks: Sequence[float]) -> tuple[list[float], int]:
    groups: dict[str, list[float]] = {}
    for value, rank in zip(values, ranks, strict=True):
        groups.setdefault(json.dumps(value), []).append(rank)
    return [fmean(groups[json.dumps(value)]) for value in values], len(groups) - 1


def _fit_parabola(values: Sequence[Any], ranks: Sequence[float]) -> tuple[list[float], int]:
    """Fit by least squares with polynomials orthogonal on these points (Forsythe 1957)."""
    points = _rank([float(value) for value in values])
    fitted, basis = [fmean(ranks)] * len(ranks), [[1.0] * len(ranks)]
    for _ in range(2):
        raw = [value * point for value, point in zip(basis[-1], points, strict=True)]
        for earlier in basis:
            share = _dot(raw, earlier) / _dot(earlier, earlier)
            raw = [value - share * other for value, other in zip(raw, earlier, strict=True)]
        if (size := _dot(raw, raw)) < 1e-9:
            break
        weight = _dot(ranks, raw) / size
        fitted = [estimate + weight * value for estimate, value in zip(fitted, raw, strict=True)]
        basis.append(raw)
    return fitted, len(basis) - 1


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))
