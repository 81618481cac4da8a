"""Draw a knowledge graph as an SVG picture, which loads nothing; equal graphs give equal bytes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

from fastserve_core.events import Event, Notice
from fastserve_core.serving import KnowledgeGraph
from fastserve_data.graph_files import check_networkx, write_atomically

MAX_ENTITIES = 60
"""More names than that cannot be read in one picture."""
MAX_NAME = 28
"""The number of characters of a name or of relations that are shown."""
SPACE = 150.0
"""The distance of two entities, in pixels, if they filled the picture evenly."""
MARGIN_X, MARGIN_Y = 110.0, 40.0
RADIUS, BEND = 7.0, 18.0
ITERATIONS = 300
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e")
OTHER_COLOUR = "#9498a0"
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328;text-anchor:middle;paint-order:stroke;stroke:#fff;"
    "stroke-width:3px}.r{font-size:11px;fill:#57606a}path{fill:none;stroke:#8c959f;stroke-width:1.2}"
    ".l{text-anchor:start}"
)
Point = tuple[float, float]


def write_svg(graph: KnowledgeGraph, path: Path, emit: Callable[[Event], None]) -> None:
    """Write a picture of the entities with most relations, and say how many are not in it.

    Raises:
        MissingPackageError: networkx is not installed.
    """
    check_networkx(path)
    degrees = Counter(end.key for relation in graph.relations for end in (relation.subject, relation.object))
    keys = sorted(degrees, key=lambda key: (-degrees[key], key))
    if len(keys) > MAX_ENTITIES:
        emit(Notice(f"{path} shows the {MAX_ENTITIES} of {len(keys)} entities with most relations"))
    drawn = graph.to_networkx().subgraph(keys[:MAX_ENTITIES])
    write_atomically(path, _Picture(drawn).render())


class _Picture:
    """A picture of a graph of networkx."""

    def __init__(self, graph: Any) -> None:
        self._nodes = {key: dict(graph.nodes[key]) for key in sorted(graph)}
        self._edges: dict[tuple[str, str], list[str]] = defaultdict(list)
        for head, tail, name in sorted(graph.edges(keys=True)):
            self._edges[head, tail].append(name)
        side = SPACE * math.sqrt(max(1, len(self._nodes)))
        self.width, self.height = side * 1.25 + 2 * MARGIN_X, side * 0.8 + 2 * MARGIN_Y
        types = Counter(node["type"] for node in self._nodes.values() if node["type"])
        ranked = sorted(types, key=lambda kind: (-types[kind], kind))
        self._colours = dict(zip(ranked, COLOURS, strict=False))
        self._points = self._place()

    def _place(self) -> Mapping[str, Point]:
        """Return the centres of the entities: edges pull, all others push (Fruchterman and Reingold 1991)."""
        import networkx

        plain = networkx.Graph()
        plain.add_nodes_from(self._nodes)
        plain.add_edges_from(self._edges)
        found = networkx.spring_layout(plain, k=2.2 / math.sqrt(max(1, len(plain))), iterations=ITERATIONS, seed=0)
        columns = [[float(point[axis]) for point in found.values()] for axis in (0, 1)]
        sizes = ((self.width, MARGIN_X), (self.height, MARGIN_Y))
        scaled = [_stretch(column, *size) for column, size in zip(columns, sizes, strict=True)]
        return dict(zip(found, zip(*scaled, strict=True), strict=True))

    def render(self) -> str:
        """Return the SVG document."""
        parts = [*self._draw_edges(), *self._draw_nodes(), *self._draw_legend()]
        size = f"{self.width:.0f} {self.height:.0f}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{self.width:.0f}" '
            f'height="{self.height:.0f}">\n<style>{STYLE}</style>\n'
            '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            '<path d="M0 0L8 4L0 8z" style="fill:#8c959f;stroke:none"/></marker></defs>\n'
            '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
        )

    def _draw_edges(self) -> Iterator[str]:
        labels = []
        for (head, tail), names in self._edges.items():
            path, middle = _draw_arrow(self._points[head], self._points[tail])
            yield f'<path d="{path}" marker-end="url(#a)"/>'
            labels.append(_draw_text(middle, _shorten(", ".join(names)), "r", ", ".join(names)))
        yield from labels

    def _draw_nodes(self) -> Iterator[str]:
        for key, node in self._nodes.items():
            x, y = self._points[key]
            colour = self._colours.get(node["type"], OTHER_COLOUR)
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS:g}" fill="{colour}"/>'
            yield _draw_text((x, y - RADIUS - 5), _shorten(node["name"]), "", node["name"])

    def _draw_legend(self) -> Iterator[str]:
        for number, (kind, colour) in enumerate(self._colours.items()):
            y = self.height - 14 - 18 * number
            yield f'<circle cx="14" cy="{y - 4:.1f}" r="5" fill="{colour}"/>'
            yield _draw_text((24, y), _shorten(kind), "l", kind)


def _stretch(values: list[float], size: float, margin: float) -> list[float]:
    """Return coordinates that fill a side of the picture between its margins."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high - low < 1e-9:
        return [size / 2] * len(values)
    return [margin + (value - low) / (high - low) * (size - 2 * margin) for value in values]


def _draw_arrow(start: Point, end: Point) -> tuple[str, Point]:
    """Return a bent path between two circles, so that both directions can be seen, and the middle of it."""
    (x0, y0), (x1, y1) = start, end
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    across = ((y1 - y0) / length, (x0 - x1) / length)
    bend = ((x0 + x1) / 2 + BEND * across[0], (y0 + y1) / 2 + BEND * across[1])
    tips = []
    for (x, y), gap in ((start, RADIUS), (end, RADIUS + 3)):
        distance = math.hypot(bend[0] - x, bend[1] - y) or 1.0
        tips.append((x + (bend[0] - x) / distance * gap, y + (bend[1] - y) / distance * gap))
    middle = ((tips[0][0] + 2 * bend[0] + tips[1][0]) / 4, (tips[0][1] + 2 * bend[1] + tips[1][1]) / 4 + 4)
    numbers = [f"{value:.1f}" for point in (tips[0], bend, tips[1]) for value in point]
    return f"M{numbers[0]} {numbers[1]}Q{numbers[2]} {numbers[3]} {numbers[4]} {numbers[5]}", middle


def _draw_text(place: Point, text: str, kind: str, whole: str) -> str:
    """Return a text; its tooltip is the whole one if it was shortened."""
    title = f"<title>{escape(whole)}</title>" if whole != text else ""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{place[0]:.1f}" y="{place[1]:.1f}"{style}>{escape(text)}{title}</text>'


def _shorten(text: str) -> str:
    """Return at most ``MAX_NAME`` columns of a text; characters of East Asia are two columns wide."""
    width = 0
    for number, character in enumerate(text):
        width += 2 if east_asian_width(character) in "WF" else 1
        if width > MAX_NAME:
            return text[:number] + "…"
    return text
