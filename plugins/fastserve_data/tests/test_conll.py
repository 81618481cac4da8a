"""CoNLL files: words and tags, with the intent of a text in a comment or in the last column."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve_data.tests.reading import read, values


def write(folder: Path, content: str) -> Path:
    path = folder / "x.conll"
    path.write_text(content, encoding="utf-8")
    return path


def test_a_text_ends_with_an_empty_line_or_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "-DOCSTART- O\n\nAnn\tB-PER\nruns\tO\n\n\n \n北京\tB-LOC\n")
    records = read(path)
    assert [record.values for record in records] == [
        {"tokens": ["Ann", "runs"], "tags": ["B-PER", "O"]},
        {"tokens": ["北京"], "tags": ["B-LOC"]},
    ]
    assert [record.where for record in records] == [f"{path}:3", f"{path}:8"]


@pytest.mark.parametrize("comment", ["# intent: book a table", "#intent=book a table", "# Intent =  book a table "])
def test_the_intent_may_be_a_comment(tmp_path: Path, comment: str) -> None:
    path = write(tmp_path, f"# id: 7\n{comment}\nfor O\ntwo B-size\n\n#\tO\n#\tO\n")
    first, second = values(path)
    assert first == {"id": "7", "intent": "book a table", "tokens": ["for", "two"], "tags": ["O", "B-size"]}
    assert second["tokens"] == ["#", "#"]  # a sign among the words is a word


def test_the_intent_may_be_the_last_column(tmp_path: Path) -> None:
    notes: list[str] = []
    path = write(tmp_path, "to O book\nRome B-city book\n\nbye O end\n")
    assert values(path, notes) == [
        {"intent": "book", "tokens": ["to", "Rome"], "tags": ["O", "B-city"]},
        {"intent": "end", "tokens": ["bye"], "tags": ["O"]},
    ]
    assert notes == [f"{path}: the last column is read as the intent, the one before it as the tags"]


def test_columns_that_are_not_read_are_reported(tmp_path: Path) -> None:
    notes: list[str] = []
    path = write(tmp_path, "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nnothing NN B-NP O\n")
    assert values(path, notes)[0] == {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}
    assert notes == [f"{path}: columns 2, 3 not read"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("a O\nb\n", "word 2 has 1 columns, not 2"),
        ("a\n\nb\n", "word 1 has 1 columns, not 2"),
        ("a O\nb x O\n", "word 2 has 3 columns, not 2"),
    ],
)
def test_a_row_without_its_columns_is_reported(tmp_path: Path, content: str, fault: str) -> None:
    record = read(write(tmp_path, content))[0]
    assert (record.values, record.fault) == (None, fault)


def test_words_of_different_intents_are_reported(tmp_path: Path) -> None:
    path = write(tmp_path, "a O x\n\n" * 100 + "a O x\nb O y\n")
    assert read(path)[-1].fault == "the words have different intents: x, y"


WORDS = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=6)


@settings(max_examples=30)
@given(st.lists(st.lists(st.tuples(WORDS, st.sampled_from(["O", "B-x", "I-x"])), min_size=1, max_size=4), max_size=4))
def test_any_words_are_read(tmp_path_factory: pytest.TempPathFactory, texts: list[list[tuple[str, str]]]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.conll"
    lines = ["\n".join(f"{word}\t{tag}" for word, tag in text) for text in texts]
    path.write_text("\n\n".join(["first\tO", *lines]), encoding="utf-8")
    found = values(path)[1:]
    assert [list(zip(row["tokens"], row["tags"], strict=True)) for row in found] == texts
