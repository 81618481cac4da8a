"""Rasa's training data: examples with marked slots; each fault has its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve_core.errors import DataError
from fastserve_data.tests.reading import read, values

PROJECT = """\
version: "3.1"
nlu:
- intent: book
  examples: |
    - fly to [Boston](city)
    - [Ann](person:ann_1) wants to fly from [NYC]{"entity": "city", "role": "from"} to [北京](city) 🛫

- synonym: nyc
  examples: |
    - New York
- intent: faq/bye
  examples:
  - text: |
      good bye
  - plain
"""


def write(folder: Path, content: str, name: str = "nlu.yml") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_examples_are_texts_with_spans(tmp_path: Path) -> None:
    notes: list[str] = []
    path = write(tmp_path, PROJECT)
    records = read(path, notes)
    assert [record.where for record in records] == [f"{path}:{line}" for line in (5, 6, 14, 15)]
    rows = [record.values or {} for record in records]
    assert [row["text"] for row in rows] == [
        "fly to Boston", "Ann wants to fly from NYC to 北京 🛫", "good bye", "plain",
    ]  # fmt: skip
    assert [row["intent"] for row in rows] == ["book", "book", "faq/bye", "faq/bye"]
    assert [(slot["slot"], slot["text"]) for slot in rows[1]["slots"]] == [
        ("person", "Ann"), ("city.from", "NYC"), ("city", "北京"),
    ]  # fmt: skip
    assert all(row["text"][slot["start"] : slot["end"]] == slot["text"] for row in rows for slot in row["slots"])
    assert notes == [f"{path}: 1 of 'synonym' not read"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("nlu:\n- intent: a\n  examples: |\n  - x: [\n", r"nlu\.yml:\d: not valid YAML: "),
        ("nlu:\n\t- intent: a\n", r"nlu\.yml:2: not valid YAML: "),
        ("stories:\n- a: b\n", r"nlu\.yml: no list 'nlu' of intents"),
        ("nlu: text\n", r"nlu\.yml: no list 'nlu' of intents"),
        ("nlu:\n- intent: a\n  examples: |\n    - b\n- only text\n", r"nlu\.yml:5: an entry of 'nlu' is not a mapping"),
        ("- a\n", r"nlu\.yml: no list 'nlu' of intents"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, content: str, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        read(write(tmp_path, content))


@pytest.mark.parametrize(
    ("example", "fault"),
    [
        ("fly to [Rome](city", "a mark of a slot is broken at '](city'"),
        ("fly to [Rome", "a mark of a slot is broken at '[Rome'"),
        ("fly to [Rome]{entity: city}", "the mark [Rome]{entity: city} is not JSON"),
        ('fly to [Rome]{"role": "to"}', 'the mark [Rome]{"role": "to"} has no \'entity\''),
    ],
)
def test_a_broken_mark_is_a_bad_row(tmp_path: Path, example: str, fault: str) -> None:
    path = write(
        tmp_path, f"nlu:\n- intent: a\n  examples: |\n    - fine [here](place)\n    - {example}\n- intent: b\n"
    )
    fine, broken, empty = read(path)
    assert fine.values is not None
    assert (broken.where, broken.values) == (f"{path}:5", None)
    assert broken.fault.startswith(fault)
    assert (empty.where, empty.fault) == (f"{path}:6", "the intent has no 'examples'")


def test_other_files_of_a_project_are_not_data(tmp_path: Path) -> None:
    write(tmp_path, PROJECT)
    write(tmp_path, "stories:\n- story: x\n", "stories.yml")
    assert len(values(tmp_path)) == 4


TEXTS = st.text(st.characters(exclude_categories=["C"], exclude_characters="[](){}"), min_size=1).map(
    lambda text: " ".join(text.split())
)


@settings(max_examples=30)
@given(st.lists(st.tuples(TEXTS, TEXTS.filter(bool)), min_size=1, max_size=3))
def test_spans_are_the_marked_parts(tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, str]]) -> None:
    example = " ".join(f"{before} [{marked}](slot)" for before, marked in parts)
    path = write(tmp_path_factory.getbasetemp(), f"nlu:\n- intent: a\n  examples: |\n    - {example}\n", "any.yml")
    (row,) = values(path)
    assert [row["text"][slot["start"] : slot["end"]] for slot in row["slots"]] == [marked for _, marked in parts]
