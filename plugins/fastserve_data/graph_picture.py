"""Draw a knowledge graph as an SVG picture, which loads nothing; equal graphs give equal bytes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any
from unicodedata import east_asian_width

from fastserve_core.events import Event, Notice
from fastserve_core.serving import KnowledgeGraph
from fastserve_data.graph_files import check_packages, write_atomically

MAX_ENTITIES = 60
"""More names than that cannot be read in one picture."""
MAX_NAME = 28
"""The number of characters of a name or of relations that are shown."""
EDGE_LENGTH = 150.0
"""The mean length of the edges of a few entities, in pixels; that of many entities is larger."""
FEW_ENTITIES = 10
MARGIN_X, MARGIN_Y = 95.0, 34.0
"""The room for names around the entities of a component."""
PICTURE_SHAPE = 1.4
"""The width of a picture by its height."""
RADIUS, BEND, LEGEND_HEIGHT = 7.0, 18.0, 18.0
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
        MissingPackageError: networkx or scipy is not installed.
    """
    check_packages(path, ("networkx", "scipy"))
    whole = graph.to_networkx()
    drawn = whole.subgraph(_choose_entities(whole))
    if len(drawn) < len(whole):
        emit(Notice(f"{path} shows {len(drawn)} of {len(whole)} entities, those of the largest parts of the graph"))
    write_atomically(path, _Picture(drawn).render())


def _find_components(graph: Any) -> list[list[str]]:
    """Return the connected parts of a graph, the largest first."""
    import networkx

    return sorted(map(sorted, networkx.weakly_connected_components(graph)), key=lambda keys: (-len(keys), keys))


def _choose_entities(graph: Any) -> list[str]:
    """Return the entities of the largest parts that fit into one picture; of a larger one, the most connected ones."""
    chosen: list[str] = []
    for keys in _find_components(graph):
        room = MAX_ENTITIES - len(chosen)
        if len(keys) <= room:
            chosen += keys
        elif not chosen:
            chosen = sorted(keys, key=lambda key: (-graph.degree(key), key))[:room]
    alone = {key for key in chosen if not graph.subgraph(chosen).degree(key)}
    return [key for key in chosen if key not in alone]


def _place_component(graph: Any) -> dict[str, Point]:
    """Return the centres of connected entities (Kamada and Kawai 1989); names fit between two that are not level."""
    import networkx

    plain = networkx.Graph()
    plain.add_nodes_from(sorted(graph))
    plain.add_edges_from(sorted(set(graph.to_undirected().edges())))
    found: Any = dict(zip(plain, ((0, 0), (0, 1)), strict=False))
    if len(plain) > 2:
        found = networkx.kamada_kawai_layout(plain)
    lengths = [math.dist(found[head], found[tail]) for head, tail in plain.edges()]
    scale = EDGE_LENGTH * max(1.0, len(plain) / FEW_ENTITIES) ** 0.5 / fmean(lengths)
    low = [min(float(point[axis]) for point in found.values()) for axis in (0, 1)]
    return {
        key: (MARGIN_X + (float(x) - low[0]) * scale, MARGIN_Y + (float(y) - low[1]) * scale)
        for key, (x, y) in found.items()
    }


def _pack(components: Sequence[Mapping[str, Point]]) -> tuple[dict[str, Point], Point]:
    """Return the centres of all entities with the components in rows, and the width and height of all rows."""
    sizes = [
        tuple(max(point[axis] for point in points.values()) + margin for axis, margin in ((0, MARGIN_X), (1, MARGIN_Y)))
        for points in components
    ]
    area = sum(width * height for width, height in sizes)
    limit = max([width for width, _ in sizes] + [math.sqrt(area * PICTURE_SHAPE)], default=0.0)
    placed: dict[str, Point] = {}
    x = y = row_height = widest = 0.0
    for points, (width, height) in zip(components, sizes, strict=True):
        if x and x + width > limit:
            x, y, row_height = 0.0, y + row_height, 0.0
        placed |= {key: (x + point[0], y + point[1]) for key, point in points.items()}
        x, row_height = x + width, max(row_height, height)
        widest = max(widest, x)
    return placed, (widest, y + row_height)


class _Picture:
    """A picture of a graph of networkx."""

    def __init__(self, graph: Any) -> None:
        self._nodes = {key: dict(graph.nodes[key]) for key in sorted(graph)}
        self._edges: dict[tuple[str, str], list[str]] = defaultdict(list)
        for head, tail, name in sorted(graph.edges(keys=True)):
            self._edges[head, tail].append(name)
        parts = [_place_component(graph.subgraph(keys)) for keys in _find_components(graph)]
        self._points, (width, height) = _pack(parts)
        types = Counter(node["type"] for node in self._nodes.values() if node["type"])
        ranked = sorted(types, key=lambda kind: (-types[kind], kind))
        self._colours = dict(zip(ranked, COLOURS, strict=False))
        self.width = max(width, 2 * MARGIN_X)
        self.height = height + LEGEND_HEIGHT * (len(self._colours) + 1)

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
            y = self.height - 14 - LEGEND_HEIGHT * number
            yield f'<circle cx="14" cy="{y - 4:.1f}" r="5" fill="{colour}"/>'
            yield _draw_text((24, y), _shorten(kind), "l", kind)


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
