"""Entities of one name are one, aliases are followed, and what is left out is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import DataError
from fastserve_core.serving import Aliases, KnowledgeGraph
from fastserve_core.serving.graph_prediction import read_aliases
from fastserve_core.serving.knowledge_graph import clean_name, normalize_name
from fastserve_core.tasks import Triple


def relations_of(graph: KnowledgeGraph) -> list[tuple[str, str, str, int, float]]:
    return [(one.subject.name, one.predicate, one.object.name, one.count, one.score) for one in graph.relations]


@pytest.mark.parametrize("name", ["IBM", "ibm", "ＩＢＭ", " I\u200bBM\n", "ib\u200dm\ufeff"])
def test_names_that_look_alike_are_one(name: str) -> None:
    assert normalize_name(name) == "ibm"


def test_names_that_differ_are_two() -> None:
    names = ["Ann", "Anna", "Änn", "A nn", "安", "e", "é", "👩‍👩‍👧", "👩"]
    assert len({normalize_name(name) for name in names}) == len(names)
    assert normalize_name("e\u0301") == normalize_name("é")
    assert clean_name(" 👩‍👩‍👧\n x\x00\u200b") == "👩‍👩‍👧 x"


@given(st.text())
def test_normal_names_stay_as_they_are(name: str) -> None:
    assert normalize_name(normalize_name(name)) == normalize_name(name)


def test_facts_are_merged_and_counted() -> None:
    graph = KnowledgeGraph()
    graph.add(
        [Triple("Ann", "runs", "ACME", 0.7, "person", "firm"), Triple("Bob", "knows", "ann", 0.9, "person", "firm")]
    )
    graph.add(
        [Triple("Ann", "runs", "Acme", 0.8, "person", "firm"), Triple("Ann ", "runs", "acme", 0.6, "person", "bar")]
    )
    assert relations_of(graph) == [("Ann", "runs", "ACME", 3, 0.8), ("Bob", "knows", "Ann", 1, 0.9)]
    found = {entity.name: (entity.type, entity.count, dict(entity.names)) for entity in graph.entities}
    assert found["Ann"] == ("person", 4, {"Ann": 3, "ann": 1})
    assert found["ACME"] == ("firm", 3, {"ACME": 1, "Acme": 1, "acme": 1})
    assert len(graph) == 2


def test_facts_that_are_left_out_are_counted() -> None:
    graph = KnowledgeGraph(Aliases([("Big Blue", "IBM")]))
    facts = [("a", "b", 0.4), ("IBM", "big blue", 0.9), ("\u200b", "b", 0.9), ("a", "c", 0.5)]
    graph.add([Triple(head, "is", tail, score) for head, tail, score in facts], min_score=0.5)
    assert relations_of(graph) == [("a", "is", "c", 1, 0.5)]
    assert graph.dropped == {
        "a score below 0.5": 1,
        "one entity as subject and object": 1,
        "a name without visible characters": 1,
    }


def test_aliases_are_followed() -> None:
    graph = KnowledgeGraph(Aliases([("Big Blue", "IBM"), ("the big one", "big blue"), ("ibm", "IBM")]))
    graph.add([Triple(name, "sells", "chips") for name in ("THE BIG ONE", "ibm", "Ibm", "Big Blue")])
    assert relations_of(graph) == [("IBM", "sells", "chips", 4, 1.0)]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("a", "b"), ("A", "c")], "the alias 'A' stands for both 'b' and 'c'"),
        ([("a", "b"), ("b", "c"), ("c", "A")], "stands for itself: a → b → c → a"),
    ],
)
def test_aliases_that_contradict_each_other_are_refused(pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Aliases(pairs)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "alias,name\nBig Blue,IBM\nI.B.M.,IBM\n"),
        ("a.tsv", "name\talias\tnote\nIBM\tBig Blue\tx\nIBM\tI.B.M.\t\n"),
        ("a.jsonl", '{"alias": "Big Blue", "name": "IBM"}\n{"alias": "I.B.M.", "name": "IBM"}\n'),
        ("a.json", '{"IBM": ["Big Blue", "I.B.M."]}'),
        ("a.json", '{"Big Blue": "IBM", "I.B.M.": "Big Blue"}'),
    ],
)
def test_tables_of_aliases_are_read(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    aliases = read_aliases(path)
    assert aliases.resolve("big  BLUE") == aliases.resolve("i.b.m.") == ("ibm", "IBM")
    assert aliases.resolve("other") == ("other", "")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "alias,name\nBig Blue,\n", "a.csv:2: a row of --aliases needs a text"),
        ("a.csv", "x,y\na,b\n", "needs a text in the columns 'alias' and 'name'"),
        ("a.csv", "alias,name\na,b\na,c\n", "a.csv: the alias 'a' stands for both 'b' and 'c'"),
        ("a.json", "[]", "a JSON file of --aliases is one object, not a list"),
        ("a.json", "{", "is not JSON in UTF-8"),
        ("a.json", json.dumps({"IBM": [1]}), "'IBM' needs a text or a list of texts"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_aliases(path)
    assert message in str(caught.value)


def test_a_graph_of_networkx_has_all_attributes() -> None:
    graph = KnowledgeGraph()
    graph.add([Triple("Ann", "runs", "Acme", 0.5, "person"), Triple("Ann", "owns", "Acme", 0.25)])
    found = graph.to_networkx()
    assert dict(found.nodes(data=True)) == {
        "acme": {"name": "Acme", "type": "", "count": 2},
        "ann": {"name": "Ann", "type": "person", "count": 2},
    }
    assert list(found.edges(data=True)) == [
        ("ann", "acme", {"relation": "owns", "score": 0.25, "count": 1}),
        ("ann", "acme", {"relation": "runs", "score": 0.5, "count": 1}),
    ]
