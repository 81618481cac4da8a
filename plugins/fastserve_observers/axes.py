"""Axes of a plot as inline SVG: scales, grid, labels. Colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 40, 40
LETTER_WIDTH = 6.8
"""Approximate width of a character of the plots' font, in units of the plot."""


def compute_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return about ``wanted`` round numbers between the bounds."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def compute_range(values: Sequence[float], margin: float = 0.08, zero: bool = False) -> tuple[float, float]:
    """Return bounds around the values with a margin; never empty.

    Args:
        values: At least one value.
        margin: Margin as a fraction of the range.
        zero: Start at 0 if no value is negative.
    """
    low, high = min(values), max(values)
    padding = margin * (high - low) or abs(high) * margin or 1.0
    return (0.0, high + padding) if zero and low >= 0 and high > 0 else (low - padding, high + padding)


@dataclass(frozen=True)
class Axes:
    """Mapping of values to coordinates.

    Attributes:
        x: Bounds of the x axis.
        y: Bounds of the y axis.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        show_x: Formats a tick of the x axis.
        show_y: Formats a tick of the y axis.
        is_y_inverted: Put low values of y at the top, for metrics of which lower is better.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str
    show_x: Callable[[float], str]
    show_y: Callable[[float], str]
    is_y_inverted: bool = False

    def map_x(self, value: float) -> float:
        """Return the x coordinate of a value."""
        low, high = self.x
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def map_y(self, value: float) -> float:
        """Return the y coordinate of a value."""
        low, high = self.y
        share = (value - low) / (high - low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (share if self.is_y_inverted else 1 - share)

    def draw_frame(self) -> list[str]:
        """Return the grid with its ticks and the axis labels."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = []
        for value in compute_ticks(*self.y):
            y = self.map_y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(draw_text(LEFT - 7, y + 4, self.show_y(value), "tick end"))
        parts += [
            draw_text(self.map_x(value), bottom + 16, self.show_x(value), "tick middle")
            for value in compute_ticks(*self.x)
        ]
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        parts.append(draw_text(right, HEIGHT - 6, self.x_label, "name end"))
        parts.append(draw_text(4, 14, self.y_label, "name"))
        return parts


def draw_text(x: float, y: float, words: str, kind: str) -> str:
    """Return a text element; ``kind`` is its CSS class."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def draw_line(points: Sequence[tuple[float, float]], kind: str) -> str:
    """Return a line through points; ``kind`` is its CSS class."""
    coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{coordinates}"/>'


def render_svg(title: str, parts: Sequence[str]) -> str:
    """Return the complete plot; screen readers announce the title."""
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        + "\n".join(parts)
        + "</svg>"
    )
