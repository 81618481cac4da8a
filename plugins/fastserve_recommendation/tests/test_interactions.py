"""Interactions: how records are read, ordered, cut into splits, and what is reported about them."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.artifacts import Store
from fastserve_core.config import DataOptions
from fastserve_core.data import Dataset, file_source, prepare_dataset, prepare_rows
from fastserve_core.errors import DataError
from fastserve_core.tasks import Task, load_task
from fastserve_recommendation.interactions import normalize_history, normalize_interaction, read_time
from fastserve_recommendation.sequences import collect_histories, make_splits

IDS = st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="[,"), min_size=1, max_size=4)
EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.none() | st.integers(0, 4)), max_size=60)


@pytest.fixture
def task() -> Task:
    return load_task("next_item", {})


def as_rows(events: Any) -> list[dict[str, Any]]:
    return [{"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": time} for user, item, time in events]


def prepare(task: Task, rows: list[dict[str, Any]], folder: Path) -> tuple[Dataset, list[str]]:
    notes: list[str] = []
    return prepare_rows({"train": rows}, DataOptions(), task, Store(folder), notes.append), notes


def prepare_file(task: Task, path: Path) -> tuple[Dataset, list[str]]:
    notes: list[str] = []
    return prepare_dataset(DataOptions(train=str(path)), task, Store(path.parent / "store"), notes.append), notes


# -- readers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "user_id,item_id,timestamp\nü,1,3\nü,é 2,1\nü,3,2\nb,1,1\n"),
        ("a.inter", "user_id:token\titem_id:token\ttimestamp:float\nü\t1\t3.0\nü\té 2\t1\nü\t3\t2\nb\t1\t1\n"),
        ("a.tsv", "user\tmovieId\tunixReviewTime\nü\t1.0\t3\nü\té 2\t1\nü\t3\t2\nb\t1\t1\n"),
        (
            "a.jsonl",
            '{"user_id": "ü", "item_id": 1, "timestamp": 3}\n{"user_id": "ü", "item_id": "é 2", "timestamp": 1}\n'
            '{"user_id": "ü", "item_id": 3, "timestamp": 2}\n{"user_id": "b", "item_id": "1", "timestamp": 1}\n',
        ),
    ],
)
def test_files_of_all_formats_give_the_same_splits(task: Task, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    data, notes = prepare_file(task, tmp_path / name)
    assert list(data.rows("train")) == [
        {"user_id": "ü", "items": [], "next": "é 2"},
        {"user_id": "b", "items": [], "next": "1"},
    ]
    assert data.rows("validation")[0] | {"items": ["é 2"], "next": "3"} == data.rows("validation")[0]
    assert data.rows("test")[0] | {"items": ["é 2", "3"], "next": "1"} == data.rows("test")[0]
    assert "1 of 2 users have fewer than 3 items, and are in train only" in notes


def test_lines_without_a_header_keep_their_order(task: Task, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("7 30\n7 31\n8 30\n7 30\n7 32\n7 32\n8 33\n8 34\n", encoding="utf-8")
    data, notes = prepare_file(task, tmp_path / "a.txt")
    assert [row["next"] for row in data.rows("test")] == ["32", "34"]
    assert data.rows("train")[0] == {"user_id": "7", "items": ["30"], "next": "31"}
    assert "train: without times, the items of a user are in the order of the file" in notes
    assert "train: 1 repeated interactions are left out (the same item twice in succession)" in notes


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "item_id,timestamp\n1,2\n", "no column 'user_id'"),
        ("a.inter", "user_id\titem_id\n1\t2\n", "the header has no types"),
        ("a.csv", "user_id,item_id,timestamp\n1,2,soon\n", r"a.csv:2: 'timestamp' is 'soon', not a time"),
        ("a.csv", "user_id,item_id\n1,\n", r"a.csv:2: 'item_id' is empty"),
        ("a.txt", "1 2\n1 2 3 4\n", r"a.txt:2: 'user_id' is empty"),
        ("a.csv", "user_id,item_id\n1,2\n2,2\n", "no user has 3 items"),
    ],
)
def test_files_that_cannot_be_used_are_refused(task: Task, tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        prepare_file(task, tmp_path / name)


def test_splits_by_another_rule_are_refused(task: Task, tmp_path: Path) -> None:
    rows = as_rows([(0, number, number) for number in range(5)])
    options = DataOptions(time="timestamp")
    with pytest.raises(DataError, match=r"data.time does not go with the task next_item"):
        prepare_rows({"train": rows}, options, task, Store(tmp_path))


@given(IDS, st.sampled_from([", ", " ", ",", "\t"]))
def test_histories_are_read_from_texts_and_lists(item: str, separator: str) -> None:
    assert normalize_history(f"{item}{separator}b") == normalize_history([item, "b"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [([1, "1", 1.0, "1.0"], ["1"] * 4), ('["a b", 2]', ["a b", "2"]), ("", []), ("物品 2", ["物品", "2"]),
     (np.array([3, 4]), ["3", "4"])],
)  # fmt: skip
def test_numbers_and_texts_are_one_id(value: Any, expected: list[str]) -> None:
    assert normalize_history(value) == expected


@pytest.mark.parametrize(
    ("value", "fault"),
    [(None, "is missing"), (7, "is int, not a list"), ("[1, 2", "is not a valid JSON list"),
     ([1, [2]], "has an element at place 2 that is a list"), ([None], "has an element at place 1 that is empty")],
)  # fmt: skip
def test_values_that_are_no_history_are_reported(value: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        normalize_history(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_times_are_read_from_every_type(number: float) -> None:
    assert read_time(number) == read_time(str(number)) == read_time(np.float64(number)) == number


def test_dates_are_times() -> None:
    moment = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
    assert read_time("2026-03-01T12:00:00") == read_time(moment) == moment.timestamp()
    assert read_time(datetime.date(2026, 3, 1)) == moment.timestamp() - 12 * 3600
    assert read_time("") is read_time(math.nan) is read_time(None) is None
    assert normalize_interaction({"user_id": 1, "item_id": 2, "timestamp": True}) is not None


# -- order and splits --------------------------------------------------------------------------------


@given(EVENTS)
def test_histories_have_each_event_in_a_stable_order_of_time(events: list[tuple[int, int, int | None]]) -> None:
    found = collect_histories(as_rows(events))
    assert sum(map(len, found.items.values())) + found.repeated == len(events)
    for user, items in found.items.items():
        own = [(item, time) for number, item, time in events if f"u{number}" == user]
        assert set(items) == {f"i{item}" for item, _ in own}
        if found.has_times and all(time is not None for _, time in own):
            unique = list(dict.fromkeys((time, item) for item, time in own))
            assert items == [f"i{item}" for _, item in sorted(unique, key=lambda event: event[0] or 0)]
        elif not found.has_times:
            assert all(first != second for first, second in pairwise(items))


@given(EVENTS)
def test_the_splits_of_a_user_are_his_history_in_order(events: list[tuple[int, int, int | None]]) -> None:
    rows, notes = as_rows(events), list[str]()
    histories = collect_histories(rows).items
    if not any(len(items) >= 3 for items in histories.values()):
        with pytest.raises(DataError, match="no user has 3 items"):
            make_splits({"train": rows}, 99, notes.append)
        return
    splits = make_splits({"train": rows}, 99, notes.append)
    whole = {split: {row["user_id"]: [*row["items"], row["next"]] for row in splits[split]} for split in splits}
    for user, items in histories.items():
        cut = len(items) >= 3
        assert whole["train"][user] == (items[:-2] if cut else items)
        assert whole["validation"].get(user) == (items[:-1] if cut else None)
        assert whole["test"].get(user) == (items if cut else None)


def test_the_items_of_users_without_a_validation_row_are_trained_on() -> None:
    rows, notes = as_rows([(user, item, item) for user in range(9) for item in range(4)]), list[str]()
    splits = make_splits({"train": rows}, 3, notes.append)
    validated = {row["user_id"] for row in splits["validation"]}
    assert len(validated) == 3 and len(splits["test"]) == 9
    assert all(row["items"] == ["i0", "i1", "i2"] and row["next"] == "i3" for row in splits["test"])
    for row in splits["train"]:
        assert [*row["items"], row["next"]] == ["i0", "i1", *([] if row["user_id"] in validated else ["i2"])]
    assert "the validation has 3 of 9 users; the items of the others are in train" in notes


def test_equal_and_missing_times_are_reported(task: Task, tmp_path: Path) -> None:
    rows = as_rows([(0, 1, 5), (0, 2, 5), (0, 3, 5), (0, 3, 5), (0, 4, None), (0, 0, 1)])
    data, notes = prepare(task, rows, tmp_path)
    assert [*data.rows("test")[0]["items"], data.rows("test")[0]["next"]] == ["i0", "i1", "i2", "i3", "i4"]
    assert "train: 1 users have items of equal times, kept in the order of the file" in notes
    assert "train: 1 interactions have no time and follow those before them in the file" in notes
    assert "train: 1 repeated interactions are left out (equal user, item and time)" in notes


def test_one_user_and_items_that_train_lacks_are_reported(task: Task, tmp_path: Path) -> None:
    reason = "train: all interactions are of one user, so that the items that users share cannot be learned"
    _, notes = prepare(task, as_rows([(0, number, number) for number in range(5)]), tmp_path)
    misses = "1 of 1 next items do not occur in train, and count as misses"
    assert {reason, f"test: {misses}", f"validation: {misses}"} <= set(notes)
    _, notes = prepare(task, as_rows([(user, item % 4, item) for user in range(2) for item in range(6)]), tmp_path)
    assert not any("one user" in note or "misses" in note for note in notes)


def test_given_splits_continue_the_histories(task: Task, tmp_path: Path) -> None:
    splits = {"train": as_rows([(0, 1, 1), (0, 2, 2), (1, 1, 1), (1, 3, 2)]), "test": as_rows([(0, 3, 3), (9, 1, 3)])}
    data = prepare_rows(splits, DataOptions(), task, Store(tmp_path))
    assert Counter(row["user_id"] for row in data.rows("validation")) == {"u0": 1, "u1": 1}
    # the last item of u0 in train is the validation, and is in the history of the test
    assert [(row["items"], row["next"]) for row in data.rows("test")] == [(["i1", "i2"], "i3"), ([], "i1")]


def test_at_most_max_rows_users_are_trained_on(task: Task, tmp_path: Path) -> None:
    rows = as_rows([(user, item, item) for user in range(20) for item in range(4)])
    data = prepare_rows({"train": rows}, DataOptions(max_rows=10), task, Store(tmp_path))
    assert data.counts == {"train": 10, "validation": 20, "test": 20}


def test_atomic_files_are_found_by_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\n1\t2\n", encoding="utf-8")
    records = list(file_source().records(str(tmp_path / "x.inter"), "data.train", DataOptions(), lambda _: None))
    assert [record.values for record in records] == [{"user_id": "1", "item_id": "2"}]


def test_a_first_look_at_interactions_proposes_a_training_from_scratch(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "clicks.txt").write_text("".join(f"{user} {item}\n" for user in range(9) for item in range(4)))
    done = cli("init", "clicks.txt")
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "conf" / "experiment" / "clicks.yaml").read_text()
    assert all(line in written for line in ("task: next_item", "model: sasrec", "epochs: 9", "lr: 0.0015"))
