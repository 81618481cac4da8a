"""Rows with intents and slots as files and callers give them, and their words and tags."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import Task, load_task

TASK = load_task("joint_intent_slots", {})


def checked(**row: Any) -> dict[str, Any]:
    assert TASK.check(row) is None
    return row


@pytest.mark.parametrize(
    ("row", "tags"),
    [
        ({"text": "fly to New York", "tags": "O O B-city I-city"}, "O O B-city I-city"),
        ({"text": ["fly", "to", "Oslo"], "tags": ["O", "O", "I-city"]}, "O O B-city"),
        ({"text": "fly to Oslo", "slots": [{"slot": "city", "start": 7, "end": 11}]}, "O O B-city"),
        ({"text": "fly to Oslo!", "slots": [[7, 11, "city"]]}, "O O B-city O"),
        ({"text": "fly to Oslo", "slots": '[{"entity": "city", "value": "Oslo"}]'}, "O O B-city"),
        ({"text": "fly to New York", "slots": [{"label": "city", "start": 7, "end": 15, "value": "NYC"}]},
         "O O B-city I-city"),
        ({"text": "fly to Oslo", "slots": []}, "O O O"),
        ({"text": "fly to Oslo", "slots": ""}, "O O O"),
        ({"text": "pre-Oslo", "slots": [[4, 8, "city"]]}, "O B-city"),
        ({"text": "去北京", "slots": [[1, 3, "城市"]]}, "O B-城市 I-城市"),
    ],
)  # fmt: skip
def test_slots_are_tags_or_spans(row: dict[str, Any], tags: str) -> None:
    assert checked(intent="a", **row)["tags"] == tags.split()


def test_a_row_without_slots_has_no_tags() -> None:
    assert checked(text="fly to Oslo", intent="a") == {"tokens": ["fly", "to", "Oslo"], "intent": "a"}


@pytest.mark.parametrize("name", ["O", "None", "null", "nan", "NaN", "true", "1.0"])
def test_any_name_is_an_intent_and_a_slot(name: str) -> None:
    row = checked(text="to Oslo", intent=name, slots=[[3, 7, name]])
    rows = [row, checked(text="bye", intent="end", slots=[])]
    expected = "1" if name == "1.0" else name
    assert {f"intent:{expected}", "slot:O", f"slot:B-{expected}"} <= set(TASK.collect_labels(rows))


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": "a b", "tags": "O"}, "2 tokens but 1 tags"),
        ({"text": ["a", "b"], "tags": ["O", "O", "O"]}, "2 tokens but 3 tags"),
        ({"text": ["a", ""], "tags": ["O", "O"]}, "'text' has an empty one at place 2"),
        ({"text": "  "}, "'text' is empty"),
        ({"text": None}, "'text' is empty or no list of words"),
        ({"text": "a b", "slots": "nothing"}, "'slots' is not a list of slots as JSON: nothing"),
        ({"text": "a b", "slots": {"x": "a"}}, "'slots' is not a list of slots"),
        ({"text": "a b", "slots": ["a"]}, "'slots' has an entry that is not a slot: a"),
        ({"text": "a b", "slots": [[0, 1, ""]]}, "the name of a slot is empty"),
        ({"text": "a b", "slots": [[0, 9, "x"]]}, "the slot 'x' at 0 to 9 marks nothing in the text of 3 characters"),
        ({"text": "a b", "slots": [[1, 1, "x"]]}, "the slot 'x' at 1 to 1 marks nothing"),
        ({"text": "a b", "slots": [[1, 2, "x"]]}, "the slot 'x' at 1 to 2 marks nothing"),
        ({"text": "a b", "slots": [[0, 2, "x"], [1, 3, "y"]]}, "the slots 'x' and 'y' overlap at character 1"),
        ({"text": "a b", "slots": [{"slot": "x"}]}, "the slot 'x' has no whole numbers 'start' and 'end'"),
        ({"text": "a a", "slots": [{"slot": "x", "value": "a"}]}, "the value 'a' of the slot 'x' stands 2 times"),
        ({"text": "a b", "slots": [{"slot": "x", "value": "c"}]}, "the value 'c' of the slot 'x' stands 0 times"),
        ({"text": "a b", "slots": [{"slot": "x", "start": 0, "end": 1, "text": "b"}]},
         "the slot 'x' is 'b', but the text has 'a'"),
    ],
)  # fmt: skip
def test_the_fault_of_a_row_is_named(row: dict[str, Any], fault: str) -> None:
    assert str(TASK.check({"intent": "a", **row})).startswith(fault)


def test_an_intent_is_needed() -> None:
    assert TASK.check({"text": "a", "intent": None}) == "'intent' is empty"
    assert TASK.check({"text": "a", "intent": ["x", "y"]}) == "'intent' is a list, not one label: ['x', 'y']"


ALPHABET = ["a", "B", " ", "é", "e\u0301", "🏠", "👩\u200d🚀", "北", "ｆ", "\u200b", "\u3000", "-", "."]


@given(st.data())
def test_offsets_hold_in_any_script(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=12))
    text = "".join(parts)
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    row = {"text": text, "intent": "a", "slots": [[start, end, "x"]]}
    if not text[start:end].strip():
        assert TASK.check(row) is not None
        return
    assert TASK.check(row) is None
    marked = [word for word, tag in zip(row["tokens"], row["tags"], strict=True) if tag != "O"]
    assert "".join(marked) == "".join(text[start:end].split())
    assert "".join(row["tokens"]) == "".join(text.split())


def rows_of(*intents: str) -> list[dict[str, Any]]:
    return [{"tokens": ["a"], "intent": intent} for intent in intents]


@pytest.mark.parametrize(
    ("options", "intents", "fault"),
    [
        ({}, ["oos"] * 3, "all 3 training rows are out of scope: they have the intent 'oos'"),
        ({"out_of_scope_label": "none"}, ["none"], "all 1 training rows are out of scope: they have the intent 'none'"),
        ({}, ["a", "a", "oos"], "the training rows have one intent, 'a': two are needed"),
        ({}, [str(number) for number in range(30)], "30 different intents in 30 training rows"),
        ({"out_of_scope": "trained"}, ["a", "b"], "task.out_of_scope=trained needs training rows with the intent"),
    ],
)
def test_intents_that_cannot_be_learnt_are_refused(options: dict[str, Any], intents: list[str], fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        load_task("joint_intent_slots", options).collect_labels(rows_of(*intents))


@pytest.mark.parametrize(("method", "learnt"), [("auto", True), ("trained", True), ("softmax", False), ("none", False)])
def test_rows_out_of_scope_are_learnt_by_some_methods(method: str, learnt: bool) -> None:
    task = load_task("joint_intent_slots", {"out_of_scope": method})
    assert ("intent:oos" in task.collect_labels(rows_of("a", "b", "oos"))) == learnt


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"out_of_scope": "mahalanobi"}, "'mahalanobi' is not a method; did you mean 'mahalanobis'"),
        ({"in_scope_share": 0.0}, "in_scope_share must lie above 0"),
        ({"slot_weight": -1.0}, "slot_weight must be a number above 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
    ],
)
def test_options_are_checked(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(OptionError, match=fault):
        load_task("joint_intent_slots", options)


def test_rows_of_python_callers() -> None:
    task: Task = TASK
    slots = [{"slot": "city", "start": 7, "end": 11}]
    rows = task.make_rows(["fly to Oslo", {"tokens": ["bye"]}], [{"intent": "book", "slots": slots}, "end"])
    assert rows == [
        {"text": "fly to Oslo", "intent": "book", "slots": slots},
        {"tokens": ["bye"], "text": ["bye"], "intent": "end"},
    ]
    assert task.make_rows([{"text": "bye", "intent": "end"}]) == [{"text": "bye", "intent": "end"}]
    for targets in (None, ["a", "b"]):
        with pytest.raises(DataError, match="label"):
            task.make_rows(["bye"], targets)
