"""The report's other plots: the tuner's trials and the training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from fastserve_core.events import TrialFinished
from fastserve_observers.axes import BOTTOM, HEIGHT, LETTER, RIGHT, WIDTH, Axes, path, span, svg, text
from fastserve_observers.formatting import count, format_value, number
from fastserve_observers.history import Curves, Point
from fastserve_observers.quality import is_fraction, metric_label, show_tick

COLOURS = 4
DOTTED_ABOVE = 20
"""A line of no more points than this shows each of them."""


def trials(done: Sequence[TrialFinished]) -> str:
    """Each trial's score, and the best so far; empty for fewer than two scores."""
    scored = [(one.number + 1, score) for one in done if (score := number(one.score)) is not None]
    if len(scored) < 2:
        return ""
    axes = Axes(
        (0.5, max(one.number for one in done) + 1.5),
        span([score for _, score in scored]),
        "trial",
        "score, higher is better",
        lambda value: format_value(value) if value == int(value) else "",
        format_value,
    )
    bests = list(accumulate((score for _, score in scored), max))
    stairs: list[Point] = []
    for (place, _), best in zip(scored, bests, strict=True):
        stairs += [(axes.at_x(place), stairs[-1][1])] if stairs else []
        stairs.append((axes.at_x(place), axes.at_y(best)))
    parts = [*axes.frame(), path(stairs, "front")]
    for place, score in scored:
        kind = "best" if score == bests[-1] else "other"
        parts.append(f'<circle class="dot {kind}" cx="{axes.at_x(place):.1f}" cy="{axes.at_y(score):.1f}" r="4.5">')
        parts.append(f"<title>trial {place}: {format_value(score)}</title></circle>")
    failed = [one.number + 1 for one in done if number(one.score) is None]
    parts += [text(axes.at_x(place), HEIGHT - BOTTOM - 5, "x", "failed middle") for place in failed]
    return svg("The score of each trial", parts)


def curves(told: Curves) -> list[str]:
    """The losses over the steps, then the validation metrics: those in per cent together, each other one alone."""
    losses = {"training loss": told.loss.points}
    groups: dict[str, dict[str, list[Point]]] = {}
    for name, metric in told.metrics.items():
        if name == "loss":
            losses["validation loss"] = metric.points
        else:
            group = "on the validation split" if is_fraction(name) else f"validation {metric_label(name)}"
            groups.setdefault(group, {})[name] = metric.points
    return [plot for title, lines in [("loss", losses), *groups.items()] if (plot := _lines(title, lines))]


def _lines(title: str, lines: Mapping[str, list[Point]]) -> str:
    drawn = {name: points for name, points in lines.items() if points}
    everything = [point for points in drawn.values() for point in points]
    if len({x for x, _ in everything}) < 2:
        return ""
    axes = _axes(title, everything, percent=all(map(is_fraction, drawn)))
    parts = axes.frame()
    legend = float(WIDTH - RIGHT)
    for place, (name, points) in enumerate(drawn.items()):
        colour = f"s{place % COLOURS}"
        centres = [(axes.at_x(x), axes.at_y(y)) for x, y in points]
        parts.append(path(centres, f"line {colour}"))
        if len(points) <= DOTTED_ABOVE:
            parts += [f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in centres]
        parts.append(text(legend, 14, metric_label(name), f"key {colour} end"))
        legend -= LETTER * len(name) + 20
    return svg(f"{title} over the steps", parts)


def _axes(title: str, points: Sequence[Point], percent: bool) -> Axes:
    return Axes(
        span([x for x, _ in points], 0.03, zero=True),
        span([y for _, y in points], zero=title == "loss"),
        "step",
        title,
        count,
        lambda value: show_tick("accuracy" if percent else title, value),
    )
