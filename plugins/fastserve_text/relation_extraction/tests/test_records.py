"""Entities and relations in the forms that files have: read right, or refused with one clear message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastserve_core.tasks import Task, load_task

TEXT = "Ann Lee runs Acme in Oslo"
ENTITIES = [[0, 7, "person"], [13, 17, "company"], [21, 25, "city"]]
RELATIONS = [[0, 1, "runs"], [1, 2, "based_in"]]
NORMAL = {"text": TEXT, "entities": ENTITIES, "relations": RELATIONS}
TOKENS = TEXT.split()


@pytest.fixture
def task() -> Task:
    return load_task("relation_extraction", {})


def read(task: Task, record: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    ((_, values),) = task.split_record(record)
    row = {column.name: values.get(column.name) for column in task.columns}
    return row, task.check(row)


SPERT_ENTITIES = [
    {"type": "person", "start": 0, "end": 2},
    {"type": "company", "start": 3, "end": 4},
    {"type": "city", "start": 5, "end": 6},
]
SPERT_RELATIONS = [{"type": "runs", "head": 0, "tail": 1}, {"type": "based_in", "head": 1, "tail": 2}]
DOCCANO = {
    "text": TEXT,
    "entities": [
        {"id": 12, "label": "company", "start_offset": 12, "end_offset": 18},
        {"id": 11, "label": "person", "start_offset": 0, "end_offset": 7},
        {"id": 13, "label": "city", "start_offset": 21, "end_offset": 25},
    ],
    "relations": [
        {"id": 1, "from_id": 12, "to_id": 13, "type": "based_in"},
        {"id": 2, "from_id": 11, "to_id": 12, "type": "runs"},
    ],
}
DUIE = {
    "text": TEXT,
    "spo_list": [
        {
            "subject": "Ann Lee",
            "subject_type": "person",
            "predicate": "runs",
            "object": "Acme",
            "object_type": "company",
        },
        {
            "subject": "Acme",
            "subject_type": "company",
            "predicate": "based_in",
            "object": {"@value": "Oslo"},
            "object_type": {"@value": "city"},
        },
    ],
}


@pytest.mark.parametrize(
    "record",
    [
        NORMAL,
        {"text": TEXT, "entities": json.dumps(ENTITIES), "relations": json.dumps(RELATIONS)},
        {"text": TEXT, "entities": [*ENTITIES, [0, 8, " person "]], "relations": [*RELATIONS, [3, 1, "runs"]]},
        {"tokens": TOKENS, "entities": SPERT_ENTITIES, "relations": SPERT_RELATIONS},
        {"tokens": TOKENS, "entities": [[0, 2, "person"], [5, 6, "city"], [3, 4, "company"]],
         "relations": [[0, 2, 3, 4, "runs"], [3, 4, 5, 6, "based_in"]]},
        DOCCANO,
        DUIE,
    ],
)  # fmt: skip
def test_all_forms_give_one_row(task: Task, record: dict[str, Any]) -> None:
    row, fault = read(task, record)
    assert fault is None
    assert row == NORMAL


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entities": [[0, 26, "person"]]}, "entity 1 of 1 lies outside the text, which has 25 characters: [0, 26]"),
        ({"entities": [[-1, 3, "person"]]}, "entity 1 of 1 lies outside the text"),
        ({"entities": [[7, 8, "person"]]}, "entity 1 of 1 is empty: [7, 8]"),
        ({"entities": [[0, 3, ""]]}, "entity 1 of 1 has a type that is empty"),
        ({"entities": [{"start": 0, "type": "x"}]}, "entity 1 of 1 has no characters 'start' and 'end'"),
        ({"entities": ["Ann"]}, "entity 1 of 1 has no characters 'start' and 'end': 'Ann'"),
        ({"entities": "Ann"}, "'entities' is not a list"),
        ({"entities": {"a": 1}}, "'entities' is not a list"),
        ({"entities": [[0, 7, "a"], [4, 7, "b"]]}, "the entities 'Ann Lee' (a) at 0 and 'Lee' (b) at 4 overlap"),
        ({"relations": [[0, 0, "runs"]]}, "relation 1 of 1 is between an entity and itself: [0, 0, 'runs']"),
        ({"relations": [[0, 3, "runs"]]}, "relation 1 of 1 has a tail that is none of the 3 entities: 3"),
        ({"relations": [[0, True, "runs"]]}, "relation 1 of 1 has a tail that is none of the 3 entities"),
        ({"relations": [[0, 1, None]]}, "relation 1 of 1 has a name that is empty"),
        ({"relations": [["Ann", "Acme"]]}, "relation 1 of 1 has no 'head', 'tail' and 'relation'"),
        ({"text": " "}, "'text' is empty"),
    ],
)
def test_faults_are_reported(task: Task, changes: dict[str, Any], message: str) -> None:
    _, fault = read(task, {**NORMAL, **changes})
    assert fault is not None
    assert message in fault


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"tokens": TOKENS, "entities": [[5, 7, "city"]]}, "entity 1 of 1 lies outside the text"),
        (
            {"tokens": TOKENS, "entities": [[0, 2, "a"]], "relations": [[0, 2, 3, 4, "runs"]]},
            "relation 1 of 1 has a tail that is none of the 1 entities: None",
        ),
        (
            {"text": TEXT, "spo_list": [{"subject": "Bob", "predicate": "runs", "object": "Acme", "object_type": "x"}]},
            "entity 1 of 2 lies outside the text",
        ),
    ],
)
def test_faults_of_other_forms_are_reported(task: Task, record: dict[str, Any], message: str) -> None:
    _, fault = read(task, record)
    assert fault is not None
    assert message in fault


def test_rows_without_entities_are_rows(task: Task) -> None:
    row, fault = read(task, {"text": "nothing here", "entities": [], "relations": None})
    assert fault is None
    assert row == {"text": "nothing here", "entities": [], "relations": []}
