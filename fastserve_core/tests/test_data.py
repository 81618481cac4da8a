"""Data: bad rows are said with their place, splits are cut evenly and without duplicates."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve_core.data import Columns, DataOptions, check_and_cut, prepare, prepare_rows
from fastserve_core.errors import BadData, BadOption
from fastserve_core.predictor import load_task
from fastserve_core.store import Store
from fastserve_core.task import Record, Task


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("text_classification", {})


def rows(*pairs: tuple[str, str]) -> list[Record]:
    return [Record(f"f:{number}", {"text": text, "label": label}) for number, (text, label) in enumerate(pairs, 1)]


def many(count: int) -> list[Record]:
    return rows(*((f"text {number}", "ab"[number % 2]) for number in range(count)))


def silent(_: str) -> None:
    """Nobody waits in these tests."""


def test_missing_splits_are_cut_evenly_and_always_the_same(task: Task) -> None:
    first, labels, bad = check_and_cut({"train": many(200)}, DataOptions(), task)
    again, _, _ = check_and_cut({"train": many(200)}, DataOptions(), task)
    assert first == again
    assert (labels, bad) == (["a", "b"], [])
    assert {split: len(found) for split, found in first.items()} == {"train": 160, "validation": 20, "test": 20}
    assert Counter(row["label"] for row in first["test"]) == {"a": 10, "b": 10}
    other, _, _ = check_and_cut({"train": many(200)}, DataOptions(split_seed=1), task)
    assert other["test"] != first["test"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.text("abcde ", min_size=1, max_size=3), st.sampled_from("xy")), min_size=60, max_size=120))
def test_no_text_is_in_two_splits(pairs: list[tuple[str, str]]) -> None:
    task = load_task("text_classification", {})
    try:
        splits, _, _ = check_and_cut({"train": rows(*pairs)}, DataOptions(max_bad_rows=1000), task)
    except BadData:
        return  # too few different texts, or labels: refused, not cut
    seen = [json.dumps(row, sort_keys=True) for split in splits.values() for row in split]
    assert len(seen) == len(set(seen))
    assert set(seen) == {json.dumps({"text": t, "label": y}, sort_keys=True) for t, y in pairs if t.strip()}


def test_bad_rows_are_said_with_place_and_reason(task: Task) -> None:
    given_rows = [*many(50), Record("f:99", None, "3 fields, but the header has 2"), *rows(("", "a"), ("x", ""))]
    with pytest.raises(BadData) as error:
        check_and_cut({"train": given_rows}, DataOptions(), task)
    assert "3 bad rows" in str(error.value)
    assert "f:99: 3 fields" in str(error.value)
    assert "f:1: 'text' is empty" in str(error.value)
    assert "data.max_bad_rows=3" in str(error.value)
    splits, _, bad = check_and_cut({"train": given_rows}, DataOptions(max_bad_rows=3), task)
    assert len(bad) == 3
    assert sum(map(len, splits.values())) == 50


def test_a_missing_column_is_said_with_the_nearest_one(task: Task) -> None:
    given_rows = [Record("f:2", {"txt": "a", "label": "b"})]
    with pytest.raises(BadData, match=r"no column 'text'; did you mean 'txt'.*data\.columns\.text=NAME"):
        check_and_cut({"train": given_rows}, DataOptions(), task)
    named = DataOptions(columns=Columns(text="txt"))
    renamed = [Record("f", {"txt": f"t{number}", "label": "ab"[number % 2]}) for number in range(40)]
    assert len(check_and_cut({"train": renamed}, named, task)[0]["train"]) == 32


def test_one_class_no_rows_and_strange_labels_are_refused(task: Task) -> None:
    with pytest.raises(BadData, match="all 2 training rows have the label 'a'"):
        check_and_cut({"train": rows(("x", "a"), ("y", "a"))}, DataOptions(), task)
    with pytest.raises(BadData, match="no rows"):
        check_and_cut({"train": []}, DataOptions(), task)
    with pytest.raises(BadData, match="the label 'c' of the validation split is not in train"):
        check_and_cut({"train": many(40), "validation": rows(("x", "c"))}, DataOptions(), task)
    with pytest.raises(BadData, match="too few to cut a validation split"):
        check_and_cut({"train": many(4)}, DataOptions(), task)
    with pytest.raises(BadData, match="is data.columns.label the right column"):
        check_and_cut({"train": rows(*((f"t{n}", f"l{n}") for n in range(30)))}, DataOptions(), task)


@pytest.mark.parametrize(
    "wrong", [{"validation_fraction": 0.6}, {"test_fraction": 0}, {"max_bad_rows": -1}, {"max_rows": 3}]
)
def test_wrong_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadOption, match=f"data.{next(iter(wrong))}"):
        DataOptions(**wrong)  # type: ignore[arg-type]


def test_prepared_data_is_kept_by_its_bytes(tmp_path: Path, task: Task, reviews: Path) -> None:
    store = Store(tmp_path)
    copy = tmp_path / "copy.csv"
    copy.write_bytes(reviews.read_bytes())
    first = prepare(DataOptions(train=str(reviews)), task, store, silent)
    assert prepare(DataOptions(train=str(copy)), task, store, silent).folder == first.folder
    copy.write_text(copy.read_text() + "one more line,positive\n")
    changed = prepare(DataOptions(train=str(copy)), task, store, silent)
    assert changed.fingerprint != first.fingerprint
    assert prepare(DataOptions(train=str(reviews), split_seed=3), task, store, silent).fingerprint != first.fingerprint
    limited = prepare(DataOptions(train=str(reviews), max_rows=50), task, store, silent)
    assert sum(limited.counts.values()) <= 50
    assert len(first.rows("train")) == first.counts["train"]


def test_rows_in_memory_are_prepared_alike(tmp_path: Path, task: Task) -> None:
    given_rows = [{"text": f"t{number}", "label": "ab"[number % 2]} for number in range(40)]
    data = prepare_rows({"train": given_rows}, DataOptions(), task, Store(tmp_path))
    assert data.counts == {"train": 32, "validation": 4, "test": 4}
    assert data.labels == ("a", "b")
    with pytest.raises(BadData, match="validation row 0: 'text' is empty"):
        prepare_rows(
            {"train": given_rows, "validation": [{"text": " ", "label": "a"}]}, DataOptions(), task, Store(tmp_path)
        )
