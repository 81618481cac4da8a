"""Rows of every form that files have, with one value replaced: each is read, or refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve_core.tasks import load_task

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
PEOPLE: dict[str, Any] = {"text": "Ann likes Bob"}
WORDS: dict[str, Any] = {"tokens": ["Ann", "likes", "Bob"]}
ANSWER = {"text": "Ann", "answer_start": 0}
FORMS: dict[str, list[dict[str, Any]]] = {
    "causal_lm": [
        {"instruction": "say", "input": "x", "output": "y", "system": "s"},
        {"messages": [*CHAT, {"role": "user", "content": [{"type": "text", "text": "bye"}]}, CHAT[1]]},
        {"chosen": CHAT, "rejected": [CHAT[0], {"from": "gpt", "value": "no"}]},
        {"instruction": "say", "chosen": [CHAT[1]], "rejected": "no"},
        {"instruction": [CHAT[0]], "output": "y"},
        {"instruction": "x", "instances": [{"input": "", "output": "y"}]},
    ],
    "token_classification": [
        {"tokens": ["a", "b"], "tags": ["B-X", "O"]},
        PEOPLE | {"entities": [{"id": 1, "label": "P", "start_offset": 0, "end_offset": 3}]},
        PEOPLE | {"label": [[0, 3, "P"]]},
        {"tokenized_text": WORDS["tokens"], "ner": [[0, 0, "P"]]},
    ],
    "joint_intent_slots": [
        PEOPLE | {"intent": "x", "slots": [{"start": 0, "end": 3, "slot": "who"}]},
        PEOPLE | {"intent": "x", "slots": [[0, 3, "who"]]},
        WORDS | {"tags": ["B-who", "O", "O"], "intent": "x"},
    ],
    "multi_label_classification": [{"text": "a", "labels": ["x", "y"]}],
    "question_answering": [
        {"question": "who?", "context": "Ann sings", "answers": [ANSWER], "id": "1"},
        {"question": "who?", "context": "Ann sings", "answers": {"text": ["Ann"], "answer_start": [0]}},
        {"paragraphs": [{"context": "Ann sings", "qas": [{"question": "q", "answers": [ANSWER]}]}], "title": "t"},
    ],
    "relation_classification": [
        WORDS | {"h": {"name": "Ann", "pos": [0, 1]}, "t": {"name": "Bob", "pos": [2, 3]}, "relation": "likes"},
        PEOPLE | {"head": {"start": 0, "end": 3}, "tail": {"start": 10, "end": 13}, "relation": "likes"},
    ],
    "relation_extraction": [
        PEOPLE | {"entities": [[0, 3, "P", "T1"], [10, 13, "P", "T2"]], "relations": [["T1", "T2", "likes"]]},
        PEOPLE
        | {
            "entities": [{"id": 5, "start": 0, "end": 3, "type": "P"}, {"id": 6, "start": 10, "end": 13, "type": "P"}],
            "relations": [{"head": 5, "tail": 6, "type": "likes"}],
        },
        PEOPLE | {"spo_list": [{"subject": "Ann", "object": {"@value": "Bob"}, "predicate": "likes"}]},
        WORDS | {"entities": [[0, 1, "P"], [2, 3, "P"]], "relations": [[0, 1, 2, 3, "likes"]]},
    ],
}  # fmt: skip
VALUES = st.recursive(
    st.sampled_from([None, True, 0, -1, 10**30, float("nan"), "", " ", "O", "[]", "[[", "{}", b"x", "\ud800"]),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(["id", "text", "type"]), part),
    max_leaves=3,
)


def places_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each part of a record."""
    if path:
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places_of(part, (*path, key))


def replace(record: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        record = record[key]
    record[path[-1]] = value


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=60)
@given(number=st.integers(0), value=VALUES)
def test_a_damaged_row_is_read_or_refused_with_a_reason(name: str, number: int, value: Any) -> None:
    task = load_task(name, {})
    choices = [(form, path) for form in FORMS[name] for path in places_of(form)]
    form, path = choices[number % len(choices)]
    record = deepcopy(form)
    replace(record, path, value)
    for _, values in task.split_record(record):
        row = {column.name: values[column.name] for column in task.columns if column.name in values}
        fault = task.check(row)
        assert fault is None or fault.strip()
        if fault is None:
            json.dumps(row)
