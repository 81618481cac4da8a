"""Two entities of a text, however they are marked: the right characters, or one clear message."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import DataError
from fastserve_core.tasks import Task, load_task
from fastserve_text.relation_classification.entity_marks import MARK, normalize_entities, unify_record

TEXT = "Ann runs Acme."


def entities(value: Any) -> list[str]:
    """Return the words of both entities of an input."""
    row = load_task("relation_classification", {}).read_input(value)
    return [row["text"][slice(*row[name])] for name in ("head", "tail")]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("<e1>Ann</e1> runs <e2>Acme</e2>.", ["Ann", "Acme"]),
        ("The <e2> cord </e2> of a <e1> child </e1>", ["child", "cord"]),
        ({"text": TEXT, "head": [0, 3], "tail": [9, 13]}, ["Ann", "Acme"]),
        ({"text": TEXT, "head": "[9, 13]", "tail": {"start": 0, "end": 3}}, ["Acme", "Ann"]),
        ({"text": TEXT, "head": "Ann", "tail": " Acme "}, ["Ann", "Acme"]),
        ({"text": "a [b] c", "head": "[b]", "tail": "c"}, ["[b]", "c"]),
        ({"text": "<e1> is a mark", "head": [0, 4], "tail": [10, 14]}, ["<e1>", "mark"]),
        ("🏠<e1>e\u0301</e1>\u200b<e2>ｗｉｎ</e2>👩‍👩‍👧", ["e\u0301", "ｗｉｎ"]),
        ("<e1>张三</e1>任职于<e2>华为</e2>。", ["张三", "华为"]),
        ({"text": "张三任职于华为。", "head": [0, 2], "tail": [5, 7]}, ["张三", "华为"]),
        ({"token": TEXT.split(), "subj_start": 0, "subj_end": 0, "obj_start": 1, "obj_end": 2}, ["Ann", "runs Acme."]),
        ({"token": ["Ann", "runs", "Acme"], "h": {"pos": [2, 3]}, "t": {"pos": [0, 1]}}, ["Acme", "Ann"]),
        ({"text": TEXT, "h": {"name": "Ann", "pos": [0, 3]}, "t": {"name": "Acme", "pos": [9, 13]}}, ["Ann", "Acme"]),
    ],
)  # fmt: skip
def test_entities_have_their_characters(value: Any, found: list[str]) -> None:
    assert entities(value) == found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no marks", "'text' has no marks <e1>…</e1> and <e2>…</e2>, and there are no 'head' and 'tail'"),
        ("<e1>a</e1> b", "'text' has no <e2>"),
        ("<e1>a</e1> <e2>b", "'text' has no </e2>"),
        ("<e1>a <e2>b</e2></e1>", "'text' has <e2> within <e1>…</e1>"),
        ("<e1>a <e2>b</e1> c</e2>", "'text' has <e2> within <e1>…</e1>"),
        ("<e1>a</e2> b", "'text' has </e2> within <e1>…</e1>"),
        ("a</e1> <e2>b</e2>", "'text' has </e1> without <e1> before"),
        ("<e1>a</e1> <e1>b</e1> <e2>c</e2>", "'text' has <e1> twice"),
        ("<e1> </e1> <e2>b</e2>", "'text' has nothing between <e1> and </e1>"),
        ({"text": TEXT, "head": [0, 3]}, "'tail' is missing"),
        ({"text": TEXT, "head": [0, 3], "tail": [9, 15]}, "'tail' [9, 15] lies outside the text, which has 14 char"),
        ({"text": TEXT, "head": [-1, 3], "tail": [9, 13]}, "'head' [-1, 3] lies outside the text"),
        ({"text": TEXT, "head": [3, 0], "tail": [9, 13]}, "'head' [3, 0] is empty"),
        ({"text": TEXT, "head": [3, 4], "tail": [9, 13]}, "'head' [3, 4] is empty"),
        ({"text": TEXT, "head": [0, 3], "tail": [0, 3]}, "'head' and 'tail' are the same characters [0, 3]"),
        ({"text": TEXT, "head": [0, 8], "tail": [4, 13]}, "'head' [0, 8] and 'tail' [4, 13] overlap"),
        ({"text": TEXT, "head": [0, True], "tail": [4, 13]}, "'head' is not a span [start, end] of characters"),
        ({"text": TEXT, "head": "Bob", "tail": "Ann"}, "'head' is not in the text: 'Bob'"),
        ({"text": "a a b", "head": "a", "tail": "b"}, "'head' occurs 2 times in the text: give its characters"),
        ({"token": ["a", "b"], "h": {"pos": [0, 3]}, "t": {"pos": [1, 2]}}, "'head' [0, 4] lies outside the text"),
        ({"token": ["a", "b"], "h": {"pos": [0, 1]}, "t": {"pos": [-1, 1]}}, "'tail' [-1, 1] lies outside the text"),
        ({"text": None, "head": [0, 1], "tail": [1, 2]}, "'text' is missing"),
        (7, "'text' is int, not text"),
    ],
)  # fmt: skip
def test_faults_are_reported(value: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        entities(value)
    assert message in str(caught.value)


WORDS = st.text(st.characters(exclude_characters="<>"), min_size=1, max_size=12)


@given(st.tuples(WORDS, WORDS, WORDS, WORDS, WORDS))
def test_marks_are_removed_and_nothing_else(parts: tuple[str, ...]) -> None:
    before, head, between, tail, after = parts
    row = {"text": f"{before}<e1>{head}</e1>{between}<e2>{tail}</e2>{after}"}
    fault = normalize_entities(row)
    if not head.strip() or not tail.strip():
        assert fault is not None
        return
    assert fault is None
    assert row["text"] == "".join(parts)
    assert [row["text"][slice(*row[name])] for name in ("head", "tail")] == [head.strip(), tail.strip()]


@given(st.text("<e12/> a", max_size=40))
def test_texts_with_marks_are_read_or_refused(text: str) -> None:
    row = {"text": text}
    if normalize_entities(row) is None:
        assert not MARK.search(row["text"]) or len(MARK.findall(text)) == 4
        assert len(text) - len(row["text"]) == 18


def test_other_records_are_left_alone() -> None:
    record = {"text": "<e1>a</e1> <e2>b</e2>", "token": ["a"], "h": "a"}
    assert unify_record(record) is record


@pytest.fixture
def task() -> Task:
    return load_task("relation_classification", {})


def test_rows_of_files_are_checked(task: Task) -> None:
    row = {"text": "<e1>a</e1> of <e2>b</e2>", "relation": " part(e2,e1) "}
    assert task.check(row) is None
    assert row == {"text": "a of b", "head": [0, 1], "tail": [5, 6], "relation": "part(e2,e1)"}
    assert task.check({"text": "<e1>a</e1> of <e2>b</e2>", "relation": " "}) == "'relation' is empty"
