"""Plot of the learning curve: scores of trainings on parts of the rows, and the forecast with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve_observers.axes import Axes, compute_range, draw_line, render_svg
from fastserve_observers.formatting import format_count
from fastserve_observers.quality import format_metric_name, format_tick, is_lower_better


def draw_learning_curve(curve: Mapping[str, Any], metric: str) -> str:
    """Plot the scores over the rows; empty if the run fitted no curve.

    Args:
        curve: The entry ``learning_curve`` of ``run.json``.
        metric: The name of the metric, with its declaration.
    """
    forecast = curve.get("forecast")
    if not forecast:
        return ""
    points = [(point["rows"], point["score"]) for point in curve["points"]]
    expected = (forecast["rows"], forecast["score"])
    bounds = [forecast["low"], forecast["high"]]
    axes = Axes(
        compute_range([0, forecast["rows"]], 0.03, zero=True),
        compute_range([*(score for _, score in points), *bounds]),
        "training rows",
        f"{format_metric_name(metric)}, validation",
        format_count,
        lambda value: format_tick(metric, value),
        is_lower_better(metric),
    )
    places = [(axes.map_x(rows), axes.map_y(score)) for rows, score in points]
    end = (axes.map_x(expected[0]), axes.map_y(expected[1]))
    whisker = [(end[0], axes.map_y(bound)) for bound in bounds]
    parts = [*axes.draw_frame(), draw_line(places, "line s0"), draw_line([places[-1], end], "front")]
    parts.append(draw_line(whisker, "whisker"))
    parts += [f'<circle class="dot s0" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places]
    parts.append(f'<circle class="dot other" cx="{end[0]:.1f}" cy="{end[1]:.1f}" r="4"/>')
    return render_svg(f"{format_metric_name(metric)} over the training rows", parts)
