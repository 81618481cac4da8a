"""Schemes of tags: the entities that they mark, and sequences without contradictions."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_text.tagging.tag_schemes import (
    begin_entities,
    best_tags,
    find_entities,
    forbidden_transitions,
    mark_entities,
)

SCHEMES = {
    "BIO": "O B-X I-X B-Y I-Y",
    "BIOES": "O B-X I-X E-X S-X B-Y I-Y E-Y S-Y",
    "BILOU": "O B-X I-X L-X U-X",
    "IO": "O X Y",
    "parts of speech": "NOUN VERB",
}


@pytest.mark.parametrize(
    ("scheme", "tags", "expected"),
    [
        ("BIO", "B-X I-X B-X O B-Y", [("X", 0, 2), ("X", 2, 3), ("Y", 4, 5)]),
        ("BIO", "I-X I-X I-Y O I-Y", [("X", 0, 2), ("Y", 2, 3), ("Y", 4, 5)]),
        ("BIOES", "S-X S-X B-Y I-Y E-Y O B-X E-X", [("X", 0, 1), ("X", 1, 2), ("Y", 2, 5), ("X", 6, 8)]),
        ("BIOES", "B-X E-X I-X", [("X", 0, 2), ("X", 2, 3)]),
        ("BILOU", "U-X B-X I-X L-X L-X", [("X", 0, 1), ("X", 1, 4), ("X", 4, 5)]),
        ("IO", "X X Y O X", [("X", 0, 2), ("Y", 2, 3), ("X", 4, 5)]),
        ("parts of speech", "NOUN NOUN VERB", []),
    ],
)
def test_entities_of_each_scheme(scheme: str, tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert find_entities(tags.split(), SCHEMES[scheme].split()) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-X I-X O I-Y", "B-X I-X O B-Y"),
        ("I-X B-X I-X", "B-X B-X I-X"),
        ("B-X I-Y", "B-X B-Y"),
        ("B-X E-X I-X", "B-X E-X B-X"),
        ("NOUN X-ray O", "NOUN X-ray O"),
    ],
)
def test_entities_that_begin_inside_begin(tags: str, expected: str) -> None:
    assert begin_entities(tags.split()) == expected.split()


@given(st.sampled_from(["BIO", "BIOES", "BILOU", "IO"]), st.data())
def test_entities_marked_in_bio_are_the_same(scheme: str, data: st.DataObject) -> None:
    labels = SCHEMES[scheme].split()
    tags = data.draw(st.lists(st.sampled_from(labels), max_size=12))
    marked = mark_entities(tags, labels)
    assert find_entities(marked, ["O", *(f"{one}-{kind}" for one in "BI" for kind in "XY")]) == find_entities(
        tags, labels
    )


@given(st.sampled_from(sorted(SCHEMES)), st.integers(1, 4), st.data())
def test_the_best_tags_are_those_of_a_search_through_all(scheme: str, words: int, data: st.DataObject) -> None:
    labels = SCHEMES[scheme].split()
    numbers = st.lists(st.floats(-9, 0), min_size=words * len(labels), max_size=words * len(labels))
    scores = np.array(data.draw(numbers)).reshape(words, -1)
    follows, first = forbidden_transitions(labels)
    allowed = [
        path
        for path in product(range(len(labels)), repeat=words)
        if not first[path[0]] and not any(follows[pair] for pair in pairwise(path))
    ]
    found = best_tags(scores, follows, first)

    def total(path: Any) -> float:
        return float(scores[np.arange(words), list(path)].sum())

    assert tuple(found) in allowed
    assert total(found) == pytest.approx(max(map(total, allowed)))


def test_rules_hold_only_where_they_can_be_kept() -> None:
    follows, first = forbidden_transitions(["O", "I-X", "B-Y", "I-Y"])
    assert not first[1]
    assert first[3]
    assert not follows[0, 1]
    assert follows[0, 3]
    assert not follows[2, 0]
