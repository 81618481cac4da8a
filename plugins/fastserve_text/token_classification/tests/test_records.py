"""Entities as spans: the forms of annotation tools, their words and tags, and what is wrong with a row."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.tasks import load_task
from fastserve_text.tagging.words import split_words

TASK = load_task("token_classification", {})
TEXT = "Ada Lovelace, née Byron, lived in London."
SPANS = [[0, 12, "PER"], [18, 23, "PER"], [34, 40, "LOC"]]
TAGS = ["B-PER", "I-PER", "O", "O", "B-PER", "O", "O", "O", "B-LOC", "O"]


def read(record: dict[str, Any]) -> dict[str, Any]:
    ((_, values),) = TASK.split_record(record)
    row = {"tokens": values.get("tokens"), "tags": values.get("tags")}
    fault = TASK.check(row)
    assert fault is None, fault
    return row


def fault_of(record: dict[str, Any]) -> str:
    ((_, values),) = TASK.split_record(record)
    return str(TASK.check({"tokens": values.get("tokens"), "tags": values.get("tags")}))


@pytest.mark.parametrize(
    "record",
    [
        {"text": TEXT, "label": SPANS},
        {"data": TEXT, "label": list(reversed(SPANS))},
        {"text": TEXT, "labels": str(SPANS).replace("'", '"')},
        {"text": TEXT, "entities": [{"id": 1, "label": kind, "start_offset": start, "end_offset": end}
                                    for start, end, kind in SPANS]},
        {"text": TEXT, "spans": [{"start": start, "end": end, "label": kind} for start, end, kind in SPANS]},
        {"text": TEXT, "entities": [*SPANS, SPANS[0]]},
        {"tokenized_text": [TEXT[start:end] for start, end in split_words(TEXT)],
         "ner": [[0, 1, "PER"], [4, 4, "PER"], [8, 8, "LOC"]]},
        {"tokenized_text": [TEXT[start:end] for start, end in split_words(TEXT)],
         "ner": '[[0, 1, "PER"], [4, 4, "PER"], [8, 8, "LOC"]]'},
    ],
)  # fmt: skip
def test_the_forms_of_annotation_tools_are_read(record: dict[str, Any]) -> None:
    row = read(record)
    assert row == {"tokens": [TEXT[start:end] for start, end in split_words(TEXT)], "tags": TAGS}


def test_an_entity_inside_a_word_cuts_it() -> None:
    row = read({"text": "the London-based 微软公司 said", "label": [[4, 10, "LOC"], [17, 21, "ORG"]]})
    assert list(zip(row["tokens"], row["tags"], strict=True)) == [
        ("the", "O"), ("London", "B-LOC"), ("-based", "O"), ("微", "B-ORG"), ("软", "I-ORG"), ("公", "I-ORG"),
        ("司", "I-ORG"), ("said", "O"),
    ]  # fmt: skip


def test_a_text_without_entities_has_none() -> None:
    assert read({"text": "nothing here", "label": []}) == {"tokens": ["nothing", "here"], "tags": ["O", "O"]}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"text": "Ann", "label": [[0, 9, "PER"]]}, "the entity 'PER' at 0 to 9 marks nothing in the text of 3"),
        ({"text": "Ann Lee", "label": [[0, 7, "PER"], [4, 7, "LOC"]]}, "the entities 'PER' and 'LOC' overlap at char"),
        ({"text": "Ann", "label": [[0, True, "PER"]]}, "the entity 'PER' has no whole numbers 'start' and 'end'"),
        ({"text": "Ann", "label": [[0, 3, ""]]}, "the name of an entity is empty"),
        ({"text": "  ", "label": []}, "'text' is empty"),
        ({"text": "Ann", "label": [[0, 3]]}, "'entities' has an entry that is not an entity"),
        ({"tokenized_text": ["Ann"], "ner": [[0, 1, "PER"]]}, "the entity 'PER' from word 0 to 1 does not lie in the"),
        ({"tokenized_text": [], "ner": []}, "'tokens' is empty"),
        ({"tokens": [False], "tags": {}}, "'tags' is empty or no list of words"),
        ({"tokenized_text": ["Ann"], "ner": [[False, 0, "PER"]]}, "the entity 'PER' from word False to 0 does not"),
    ],
)
def test_the_fault_of_a_row_is_named(record: dict[str, Any], fault: str) -> None:
    assert fault_of(record).startswith(fault)


def test_words_with_tags_are_read_as_before() -> None:
    assert read({"tokens": ["Ann", "sings"], "tags": ["I-PER", "O"], "text": "x", "label": [[0, 1, "y"]]}) == {
        "tokens": ["Ann", "sings"],
        "tags": ["B-PER", "O"],
    }


@given(st.text(min_size=1), st.integers(0, 20), st.integers(1, 20))
def test_the_words_of_an_entity_are_its_characters(text: str, start: int, length: int) -> None:
    end = min(start + length, len(text))
    ((_, values),) = TASK.split_record({"text": text, "label": [[start, end, "X"]]})
    row = {"tokens": values["tokens"], "tags": values["tags"]}
    if TASK.check(row) is None:
        marked = "".join(word for word, tag in zip(row["tokens"], row["tags"], strict=True) if tag != "O")
        assert marked == "".join(text[start:end].split())
