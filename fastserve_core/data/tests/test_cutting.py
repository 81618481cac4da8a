"""Splits: even over labels however few rows they have, whole groups, and the order of time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve_core.artifacts.store import Store
from fastserve_core.config.nodes import DataOptions
from fastserve_core.data.dataset import Dataset
from fastserve_core.data.folds import make_fold
from fastserve_core.data.prepare import prepare_rows
from fastserve_core.data.rows import Rows
from fastserve_core.data.source import RawRecord
from fastserve_core.data.splits import SPLITS, validate_and_split
from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks.load import load_task

TASK = load_task("text_classification", {})


def cut(
    rows: Sequence[Mapping[str, Any]], folder: Path, notes: list[str] | None = None, **options: Any
) -> dict[str, list[dict[str, Any]]]:
    """The splits' rows, with the columns that are not the task's."""
    given = {"train": [RawRecord(f"f:{number}", row) for number, row in enumerate(rows, 1)]}
    for split in SPLITS[1:]:
        if split in options:
            given[split] = [RawRecord(f"g:{number}", row) for number, row in enumerate(options.pop(split), 1)]
    report = (notes if notes is not None else []).append
    validate_and_split(given, DataOptions(**options), TASK, folder, report)
    whole = {row["text"]: row for records in given.values() for record in records if (row := dict(record.values or {}))}
    return {split: [whole[row["text"]] for row in Rows(folder, split)] for split in SPLITS}


@pytest.mark.parametrize(("labels", "each"), [(100, 4), (150, 2), (60, 3), (7, 40)])
def test_few_rows_of_a_label_are_cut_together(tmp_path: Path, labels: int, each: int) -> None:
    rows = [{"text": f"t{number}", "label": f"l{number % labels}"} for number in range(labels * each)]
    splits = cut(rows, tmp_path)
    assert [len(splits[split]) for split in SPLITS] == [
        labels * each - 2 * round(labels * each / 10), round(labels * each / 10), round(labels * each / 10)
    ]  # fmt: skip
    assert len({row["label"] for row in splits["train"]}) == labels


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=20), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_every_label_stays_in_train_and_the_sizes_are_right(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], validation: float, test: float
) -> None:
    rows = [
        {"text": f"{name} {number}", "label": f"l{name}"} for name, size in enumerate(sizes) for number in range(size)
    ]
    if len(sizes) > len(rows) / 2 and len(rows) > 20:
        return
    fractions = {"validation_fraction": validation, "test_fraction": test}
    try:
        splits = cut(rows, tmp_path_factory.mktemp("cut"), **fractions)
    except DataError as error:
        assert "too few" in str(error)
        return
    assert {row["label"] for row in splits["train"]} == {row["label"] for row in rows}
    assert sorted(row["text"] for split in splits.values() for row in split) == sorted(row["text"] for row in rows)
    if min(sizes) > 10:
        for split, fraction in (("validation", validation), ("test", test)):
            assert abs(len(splits[split]) - fraction * len(rows)) <= 1
            counts = Counter(row["label"] for row in splits[split])
            assert all(abs(counts[f"l{name}"] - fraction * size) < 2 for name, size in enumerate(sizes))


def test_one_row_a_label_is_reported(tmp_path: Path) -> None:
    rows = [{"text": f"t{number}", "label": f"l{number}"} for number in range(18)]
    with pytest.raises(
        DataError, match="18 different rows have a label each, of which one row stays in train: too few"
    ):
        cut(rows, tmp_path)


def grouped(customers: int, each: int) -> list[dict[str, Any]]:
    return [
        {"text": f"{customer} {number}", "label": "ab"[customer % 2], "customer": customer}
        for customer in range(customers)
        for number in range(each + customer % 3)
    ]


def test_a_group_is_in_one_split(tmp_path: Path) -> None:
    splits = cut(grouped(40, 4), tmp_path, group="customer")
    groups = {split: {row["customer"] for row in rows} for split, rows in splits.items()}
    assert sum(map(len, groups.values())) == 40
    total = len(grouped(40, 4))
    for split in SPLITS[1:]:
        assert abs(len(splits[split]) / total - 0.1) < 0.03
        assert {row["label"] for row in splits[split]} == {"a", "b"}
    (tmp_path / "again").mkdir()
    assert cut(grouped(40, 4), tmp_path / "again", group="customer") == splits
    (tmp_path / "other").mkdir()
    assert cut(grouped(40, 4), tmp_path / "other", group="customer", split_seed=1) != splits


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 6), min_size=12, max_size=60), st.integers(0, 3))
def test_groups_of_any_sizes_are_never_parted(
    tmp_path_factory: pytest.TempPathFactory, customers: list[int], seed: int
) -> None:
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], "customer": str(group)} for n, group in enumerate(customers)]
    try:
        splits = cut(rows, tmp_path_factory.mktemp("cut"), group="customer", split_seed=seed)
    except DataError as error:
        assert "values of 'customer' in all, too few" in str(error)
        return
    found = [group for part in splits.values() for group in {row["customer"] for row in part}]
    assert len(found) == len(set(found)) == len(set(customers))


def test_folds_keep_groups_together(tmp_path: Path) -> None:
    rows, store = grouped(30, 3), Store(tmp_path)
    data = prepare_rows({"train": rows}, DataOptions(group="customer"), TASK, store)
    seen: Counter[str] = Counter()
    for number in range(3):
        fold = make_fold(data, TASK, number, 3, 0, store)
        parts = [{row["text"].split()[0] for row in fold.rows(split)} for split in ("train", "validation")]
        assert not parts[0] & parts[1]
        seen.update(parts[1])
    assert set(seen.values()) == {1}


def test_a_group_that_is_missing_or_in_two_given_splits_is_reported(tmp_path: Path) -> None:
    rows, notes = grouped(20, 3), list[str]()
    with pytest.raises(DataError, match=r"data\.group: no column 'custome'; did you mean 'customer'"):
        cut(rows, tmp_path, group="custome")
    with pytest.raises(DataError, match=r"f:2: 'customer' is empty, and data\.group needs it"):
        cut([rows[0], rows[1] | {"customer": None}, *rows[2:]], tmp_path, group="customer")
    own = [{"text": f"own {number}", "label": "ab"[number % 2]} for number in range(4)]
    cut(rows, tmp_path, notes, group="customer", test=[row | {"customer": 3 + 90 * n} for n, row in enumerate(own)])
    assert notes == ["1 of 4 test rows have a value of 'customer' that train has too"]
    (tmp_path / "none").mkdir()
    assert cut(rows, tmp_path / "none", notes, group="customer", test=own)["test"] == own


def timed(times: Sequence[Any]) -> list[dict[str, Any]]:
    order = sorted(range(len(times)), key=lambda n: n * 7 % len(times))
    return [{"text": f"t{n}", "label": "ab"[n % 2], "created": times[n]} for n in order]


DAY = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "times",
    [
        list(range(100, 140)),
        [str(1e9 + number / 2) for number in range(40)],
        [(DAY + timedelta(days=number)).isoformat() for number in range(40)],
        [(DAY + timedelta(days=number)).strftime("%Y-%m-%d") for number in range(40)],
        [date(2026, 1, 1) + timedelta(days=number) for number in range(40)],
        [(DAY + timedelta(hours=number)).replace(tzinfo=None) for number in range(40)],
    ],
)
def test_the_newest_rows_are_the_test(tmp_path: Path, times: list[Any]) -> None:
    splits = cut(timed(times), tmp_path, time="created")
    numbers = {split: {int(row["text"][1:]) for row in rows} for split, rows in splits.items()}
    assert numbers == {"train": set(range(32)), "validation": set(range(32, 36)), "test": set(range(36, 40))}
    assert [row["text"] for row in splits["train"]] != sorted(row["text"] for row in splits["train"])


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 9), min_size=10, max_size=50))
def test_rows_of_one_time_are_in_one_split(tmp_path_factory: pytest.TempPathFactory, times: list[int]) -> None:
    try:
        splits = cut(timed(times), tmp_path_factory.mktemp("cut"), time="created")
    except DataError as error:
        assert "values of 'created' in all, too few" in str(error)
        assert len(set(times)) < 4
        return
    ranges = [(min(found), max(found)) for split in SPLITS if (found := [row["created"] for row in splits[split]])]
    assert all(before[1] < after[0] for before, after in pairwise(ranges))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("last week", r"'created' is 'last week', not a time: write it as"),
        ("03/04/2026", "'created' is '03/04/2026', not a time"),
        (True, "'created' is True, not a time"),
        (float("inf"), "'created' is inf, not a time"),
        (None, r"'created' is empty, and data\.time needs it"),
        ("2026-01-01", "'created' is '2026-01-01', while the rows before have numbers"),
    ],
)
def test_a_row_without_a_time_is_a_bad_row(tmp_path: Path, value: Any, fault: str) -> None:
    rows = [{"text": f"t{number}", "label": "ab"[number % 2], "created": number} for number in range(30)]
    with pytest.raises(DataError, match=rf"f:31: {fault}"):
        cut([*rows, {"text": "x", "label": "a", "created": value}], tmp_path, time="created")


def test_time_excludes_groups_and_folds(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"by data\.group or by data\.time, not by both"):
        DataOptions(group="a", time="b")
    data = prepare_rows({"train": timed(range(40))}, DataOptions(time="created"), TASK, Store(tmp_path))
    with pytest.raises(DataError, match="folds mix past and future"):
        make_fold(data, TASK, 0, 3, 0, Store(tmp_path))
    notes: list[str] = []
    cut(timed(range(40)), tmp_path, notes, time="created", test=[{"text": "x", "label": "a", "created": 39}])
    assert notes == ["1 of 1 test rows are not later than the last one of train"]
    assert json.loads((data.folder / "data.json").read_text())["is_timed"] is True
    assert isinstance(data, Dataset)
