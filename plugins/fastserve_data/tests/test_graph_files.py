"""Files of graphs: what other programs read, with the same bytes for the same facts."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx
import pytest

from fastserve_core.entry_points import load_entry_point
from fastserve_core.events import Event, Notice
from fastserve_core.serving import Aliases, KnowledgeGraph
from fastserve_core.tasks import Triple

FACTS = [
    Triple("Ann", "runs", "ACME", 0.7, "person", "firm"),
    Triple("Bob", "per:title", 'a "b", <c> & d', 0.9, "person", "a type"),
    Triple("张三", "任职 于", "华为", 0.123456789, "人物", "公司"),
    Triple("Ann", "name", "@id", 0.8),
    Triple("acme", "hired", "ann", 1.0, "firm", "person"),
    Triple("x\x00y", "runs", "ACME\r\nInc", 0.5),
]


def write(suffix: str, path: Path, facts: list[Triple], events: list[Event] | None = None) -> bytes:
    graph = KnowledgeGraph(Aliases())
    graph.add(facts)
    emit: Callable[[Event], None] = (events if events is not None else []).append
    load_entry_point("fastserve.graphs", suffix)(graph, path, emit)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["csv", "jsonld", "graphml", "svg"])
def test_equal_facts_give_equal_bytes_in_any_order(suffix: str, tmp_path: Path) -> None:
    written = write(suffix, tmp_path / "a", FACTS)
    shuffled = FACTS.copy()
    random.Random(1).shuffle(shuffled)
    assert write(suffix, tmp_path / "b", shuffled) == written
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "b"]
    assert write(suffix, tmp_path / "c", [])  # a graph without facts is a file as well


def test_tables_have_a_row_for_each_relation(tmp_path: Path) -> None:
    path = tmp_path / "graph.csv"
    write("csv", path, FACTS)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:3] == ["head", "relation", "tail"]
    assert ["张三", "任职 于", "华为", "0.123457", "1", "人物", "公司"] in [list(row.values()) for row in rows]
    assert ["Bob", "per:title", 'a "b", <c> & d'] in [list(row.values())[:3] for row in rows]
    assert len(rows) == len(FACTS)


def test_linked_data_names_each_relation_of_an_entity(tmp_path: Path) -> None:
    document = json.loads(write("jsonld", tmp_path / "graph.jsonld", FACTS))
    nodes = {node["@id"]: node for node in document["@graph"] if "@id" in node}
    ann = nodes["urn:fastserve:entity:ann"]
    assert ann["@type"] == "person"
    assert ann["name"] == "Ann"
    assert ann["alternateName"] == ["ann"]
    assert ann["runs"] == [{"@id": "urn:fastserve:entity:acme"}]
    assert ann["_name"] == [{"@id": "urn:fastserve:entity:%40id"}]
    bob = nodes["urn:fastserve:entity:bob"]
    assert bob["per%3Atitle"][0]["@id"] == "urn:fastserve:entity:a%20%22b%22%2C%20%3Cc%3E%20%26%20d"
    assert all(":" not in name for node in nodes.values() for name in node if not name.startswith("@"))
    statements = [node for node in document["@graph"] if node.get("@type") == "rdf:Statement"]
    assert len(statements) == len(FACTS)
    assert {"score", "count", "rdf:subject", "rdf:predicate", "rdf:object"} < set(statements[0])


def test_graphml_is_read_by_networkx(tmp_path: Path) -> None:
    path = tmp_path / "graph.graphml"
    write("graphml", path, FACTS)
    graph: Any = networkx.read_graphml(path, force_multigraph=True)
    assert graph.nodes["张三"] == {"name": "张三", "type": "人物", "count": 1}
    assert {attributes["relation"] for _, _, attributes in graph.edges(data=True)} == {one.predicate for one in FACTS}
    assert graph.nodes["xy"]["name"] == "xy"


def test_pictures_are_svg_that_loads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "graph.svg"
    picture = write("svg", path, FACTS).decode()
    root = ElementTree.fromstring(picture)
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"张三", "华为", 'a "b", <c> & d', "任职 于", "per:title"} <= set(texts)
    assert "href" not in picture
    assert "<script" not in picture
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 < float(circle.attrib["cx"]) < width
        assert 0 < float(circle.attrib["cy"]) < height


@pytest.mark.slow(1)
def test_a_picture_shows_the_largest_parts_of_a_graph(tmp_path: Path) -> None:
    events: list[Event] = []
    chain = [Triple(f"link {number}", "of", f"link {number + 1}") for number in range(30)]
    star = [Triple("hub", "of", f"a very long name of leaf {number}") for number in range(25)]
    pairs = [Triple(f"left {number}", "of", f"right {number}") for number in range(9)]
    picture = write("svg", tmp_path / "graph.svg", [*pairs, *star, *chain], events).decode()
    assert ">hub<" in picture
    assert ">a very long name of leaf 1<" in picture
    assert ">left 0<" in picture
    assert ">left 1<" not in picture
    path = tmp_path / "graph.svg"
    assert events == [Notice(f"{path} shows 59 of 75 entities, those of the largest parts of the graph")]


@pytest.mark.slow(1)
def test_a_picture_of_one_large_part_shows_the_entities_with_most_relations(tmp_path: Path) -> None:
    facts = [Triple("hub", "of", f"leaf {number:02}") for number in range(90)]
    facts += [Triple("leaf 88", "of", "leaf 89"), Triple("leaf 89", "of", f"{'long ' * 9}tail")]
    picture = write("svg", tmp_path / "graph.svg", facts).decode()
    assert picture.count("<circle") == 60
    assert ">hub<" in picture
    assert ">leaf 89<" in picture
    assert "tail" not in picture
