"""A tuner's search in pictures: every trial across its options, its curve, and how much each option matters."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from fastserve_core.events import TrialFinished
from fastserve_observers.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axes, path, span, svg, text
from fastserve_observers.formatting import count, format_value, number

MIN_TRIALS = {"coordinates": 3, "importance": 8}
"""Scored trials below which a picture would say nothing."""
MOST_OPTIONS = 7
MARGIN = 20
"""Left of the first option; its values are written on the other side."""
LOG_SCALE_RATIO = 20.0
"""Values of which the largest is so many times the smallest are laid out by their logarithm."""

Options = Mapping[str, Any]


def parallel_coordinates(done: Sequence[TrialFinished]) -> str:
    """Each trial as a line through its options' values to its score; empty for too few trials, or one option."""
    scored = [(one.options, score) for one in done if (score := number(one.score)) is not None]
    names = _varied([options for options, _ in scored])[:MOST_OPTIONS]
    if len(scored) < MIN_TRIALS["coordinates"] or len(names) < 2:
        return ""
    places = [_place([options.get(name) for options, _ in scored]) for name in names]
    places.append(_place([score for _, score in scored]))
    rows = [[*(options.get(name) for name in names), score] for options, score in scored]
    parts: list[str] = []
    order = sorted(range(len(rows)), key=lambda one: scored[one][1])
    for rank, one in enumerate(order):  # the best are drawn last, over the others
        centres = [
            (_column(place, len(places)), _height(at(value)))
            for place, (at, value) in enumerate(zip(places, rows[one], strict=True))
            if value is not None
        ]
        parts.append(path(centres, "line s1" if rank == len(order) - 1 else f"line s0 faint{3 * rank // len(order)}"))
    for place, name in enumerate([*names, "score"]):
        parts += _axis(place, len(places), name.rpartition(".")[2], [row[place] for row in rows])
    return svg("Every trial across its options", parts)


def trial_curves(curves: Mapping[int, Sequence[Sequence[float]]]) -> str:
    """The scores of trials that were looked at more than once, over their steps."""
    long = {one: points for one, points in curves.items() if len(points) > 1}
    if not long:
        return ""
    everything = [point for points in curves.values() for point in points]
    axes = Axes(
        span([x for x, _ in everything], 0.03, zero=True), span([y for _, y in everything]),
        "step", "score, higher is better", count, format_value,
    )  # fmt: skip
    best = max(long, key=lambda one: (long[one][-1][0], long[one][-1][1]))
    parts = axes.frame()
    for one, points in sorted(curves.items(), key=lambda item: item[0] == best):
        colour = "s1" if one == best else "s0"
        centres = [(axes.at_x(x), axes.at_y(y)) for x, y in points]
        parts.append(path(centres, f"line {colour}" if one == best else f"line {colour} faint1"))
        title = f"<title>trial {one + 1}</title>"
        parts += [f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3">{title}</circle>' for x, y in centres]
    return svg("The score of each trial over its steps", parts)


def importance(done: Sequence[TrialFinished]) -> list[tuple[str, float]]:
    """By option, the share of the variance of the scores' ranks that it explains alone, the largest first.

    Of numbers a parabola of their ranks is fitted, of choices the mean of each; the share is adjusted for how many
    numbers that takes (adjusted R squared), so that chance comes out near 0. Empty for too few trials.
    """
    scored = [(one.options, score) for one in done if (score := number(one.score)) is not None]
    if len(scored) < MIN_TRIALS["importance"]:
        return []
    ranks = _ranks([score for _, score in scored])
    found = [
        (name, _explained_variance([options.get(name) for options, _ in scored], ranks))
        for name in _varied([one for one, _ in scored])
    ]
    return sorted(found, key=lambda one: -one[1])


def _varied(options: Sequence[Options]) -> list[str]:
    """The options of which trials have different values, in their order."""
    names = dict.fromkeys(name for one in options for name in one)
    return [name for name in names if len({json.dumps(one.get(name)) for one in options}) > 1]


# -- where values lie --------------------------------------------------------------------------------


def _is_number(values: Sequence[Any]) -> bool:
    return all(number(one) is not None for one in values if one is not None)


def _place(values: Sequence[Any]) -> Callable[[Any], float]:
    """From a value to its place between 0 and 1."""
    known = [one for one in values if one is not None]
    if not _is_number(known):
        names = sorted({json.dumps(one) for one in known})
        return lambda value: names.index(json.dumps(value)) / max(1, len(names) - 1)
    low, high = min(known), max(known)
    if low == high:
        return lambda value: 0.5
    if low > 0 and high / low >= LOG_SCALE_RATIO:
        return lambda value: math.log(value / low) / math.log(high / low)
    return lambda value: (value - low) / (high - low)


def _column(place: int, columns: int) -> float:
    return MARGIN + (WIDTH - MARGIN - RIGHT - LEFT) * place / (columns - 1)


def _height(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def _axis(place: int, columns: int, name: str, values: Sequence[Any]) -> list[str]:
    x, known = _column(place, columns), [one for one in values if one is not None]
    ends = [min(known), max(known)] if _is_number(known) else sorted({json.dumps(one) for one in known})
    shown = [format_value(one, 3).strip('"') for one in ends]
    parts = [f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>']
    parts.append(text(x, HEIGHT - BOTTOM + (30 if place % 2 else 16), name, "name middle"))
    heights = [_height(one / max(1, len(shown) - 1)) - 4 for one in range(len(shown))]
    parts += [text(x + 4, height, each, "tick halo") for height, each in zip(heights, shown, strict=True)]
    return parts


# -- how much an option explains ---------------------------------------------------------------------


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1 on; equal values share the mean of theirs."""
    return [sum(other < one for other in values) + (sum(other == one for other in values) + 1) / 2 for one in values]


def _explained_variance(values: Sequence[Any], ranks: Sequence[float]) -> float:
    fitted, used = _parabola(values, ranks) if _is_number(values) and None not in values else _means(values, ranks)
    middle = fmean(ranks)
    whole = sum((one - middle) ** 2 for one in ranks)
    left = sum((one - other) ** 2 for one, other in zip(ranks, fitted, strict=True))
    freedom = len(ranks) - 1 - used
    if not whole or freedom < 1:
        return 0.0
    return max(0.0, 1 - left / whole * (len(ranks) - 1) / freedom)


def _means(values: Sequence[Any], ranks: Sequence[float]) -> tuple[list[float], int]:
    groups: dict[str, list[float]] = {}
    for value, rank in zip(values, ranks, strict=True):
        groups.setdefault(json.dumps(value), []).append(rank)
    return [fmean(groups[json.dumps(one)]) for one in values], len(groups) - 1


def _parabola(values: Sequence[Any], ranks: Sequence[float]) -> tuple[list[float], int]:
    """The least squares fit by polynomials that are made orthogonal on these places (Forsythe 1957)."""
    places = _ranks([float(one) for one in values])
    fitted, basis = [fmean(ranks)] * len(ranks), [[1.0] * len(ranks)]
    for _ in range(2):
        raw = [one * place for one, place in zip(basis[-1], places, strict=True)]
        for earlier in basis:
            share = _dot(raw, earlier) / _dot(earlier, earlier)
            raw = [one - share * other for one, other in zip(raw, earlier, strict=True)]
        if (size := _dot(raw, raw)) < 1e-9:
            break
        weight = _dot(ranks, raw) / size
        fitted = [one + weight * other for one, other in zip(fitted, raw, strict=True)]
        basis.append(raw)
    return fitted, len(basis) - 1


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
