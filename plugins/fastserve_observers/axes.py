"""The frame of a plot as inline SVG: scales, grid, labels. Colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 40, 40
LETTER = 6.8
"""About how wide a letter of the plots' font is, in the units of the plot."""


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between the bounds, about as many as wanted."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def span(values: Sequence[float], margin: float = 0.08, zero: bool = False) -> tuple[float, float]:
    """Bounds round the values with a margin; never empty; from zero on where that is asked for."""
    low, high = min(values), max(values)
    room = margin * (high - low) or abs(high) * margin or 1.0
    return (0.0, high + room) if zero and low >= 0 and high > 0 else (low - room, high + room)


@dataclass(frozen=True)
class Axes:
    """Maps values to places; ``upside_down`` puts low values of y at the top, where the better ones belong."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str
    show_x: Callable[[float], str]
    show_y: Callable[[float], str]
    upside_down: bool = False

    def at_x(self, value: float) -> float:
        low, high = self.x
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def at_y(self, value: float) -> float:
        low, high = self.y
        share = (value - low) / (high - low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (share if self.upside_down else 1 - share)

    def frame(self) -> list[str]:
        """The grid with its numbers and the names of both axes."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = []
        for value in ticks(*self.y):
            place = self.at_y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{place:.1f}" y2="{place:.1f}"/>')
            parts.append(text(LEFT - 7, place + 4, self.show_y(value), "tick end"))
        parts += [text(self.at_x(one), bottom + 16, self.show_x(one), "tick middle") for one in ticks(*self.x)]
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        parts.append(text(right, HEIGHT - 6, self.x_label, "name end"))
        parts.append(text(4, 14, self.y_label, "name"))
        return parts


def text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def path(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through places."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{places}"/>'


def svg(title: str, parts: Sequence[str]) -> str:
    """The finished plot; the title is for those who hear the page."""
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        + "\n".join(parts)
        + "</svg>"
    )
