"""Data: bad rows are said with their place, splits are cut evenly and without duplicates."""

from __future__ import annotations

import json
import random
import tracemalloc
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve_core.artifacts.store import Store
from fastserve_core.config.nodes import DataOptions
from fastserve_core.data.cutting import deduplicate
from fastserve_core.data.prepare import prepare_dataset, prepare_rows
from fastserve_core.data.rows import Rows, RowWriter, encode_row
from fastserve_core.data.source import RawRecord
from fastserve_core.data.splits import SPLITS, validate_and_split
from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.load import load_task
from fastserve_core.tasks.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("text_classification", {})


def rows(*pairs: tuple[str, str]) -> list[RawRecord]:
    return [RawRecord(f"f:{number}", {"text": text, "label": label}) for number, (text, label) in enumerate(pairs, 1)]


def many(count: int) -> list[RawRecord]:
    return rows(*((f"text {number}", "ab"[number % 2]) for number in range(count)))


def silent(_: str) -> None:
    """Nobody waits in these tests."""


Cut = tuple[dict[str, list[Row]], list[str], list[str]]


def cut(records: Mapping[str, Sequence[RawRecord]], options: DataOptions, task: Task, folder: Path) -> Cut:
    """The splits' rows, the labels and the bad rows."""
    labels, bad = validate_and_split(records, options, task, folder, silent)
    return {split: list(Rows(folder, split)) for split in SPLITS}, labels, bad


def test_missing_splits_are_cut_evenly_and_always_the_same(task: Task, tmp_path: Path) -> None:
    first, labels, bad = cut({"train": many(200)}, DataOptions(), task, tmp_path)
    again, _, _ = cut({"train": many(200)}, DataOptions(), task, tmp_path)
    assert first == again
    assert (labels, bad) == (["a", "b"], [])
    assert {split: len(found) for split, found in first.items()} == {"train": 160, "validation": 20, "test": 20}
    assert Counter(row["label"] for row in first["test"]) == {"a": 10, "b": 10}
    other, _, _ = cut({"train": many(200)}, DataOptions(split_seed=1), task, tmp_path)
    assert other["test"] != first["test"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.text("abcde ", min_size=1, max_size=3), st.sampled_from("xy")), min_size=60, max_size=120))
def test_no_text_is_in_two_splits(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    task, folder = load_task("text_classification", {}), tmp_path_factory.mktemp("cut")
    try:
        splits, _, _ = cut({"train": rows(*pairs)}, DataOptions(max_bad_rows=1000), task, folder)
    except DataError:
        return  # too few different texts, or labels: refused, not cut
    seen = [json.dumps(row, sort_keys=True) for split in splits.values() for row in split]
    assert len(seen) == len(set(seen))
    assert set(seen) == {json.dumps({"text": t, "label": y}, sort_keys=True) for t, y in pairs if t.strip()}


def test_bad_rows_are_reported_with_place_and_reason(task: Task, tmp_path: Path) -> None:
    given_rows = [*many(50), RawRecord("f:99", None, "3 fields, but the header has 2"), *rows(("", "a"), ("x", ""))]
    with pytest.raises(DataError) as error:
        cut({"train": given_rows}, DataOptions(), task, tmp_path)
    assert "3 bad rows" in str(error.value)
    assert "f:99: 3 fields" in str(error.value)
    assert "f:1: 'text' is empty" in str(error.value)
    assert "data.max_bad_rows=3" in str(error.value)
    splits, _, bad = cut({"train": given_rows}, DataOptions(max_bad_rows=3), task, tmp_path)
    assert len(bad) == 3
    assert sum(map(len, splits.values())) == 50


def test_a_missing_column_is_reported_with_the_nearest_one(task: Task, tmp_path: Path) -> None:
    given_rows = [RawRecord("f:2", {"txt": "a", "label": "b"})]
    with pytest.raises(DataError, match=r"no column 'text'; did you mean 'txt'.*data\.columns\.text=NAME"):
        cut({"train": given_rows}, DataOptions(), task, tmp_path)
    named = DataOptions(columns={"text": "txt"})
    renamed = [RawRecord("f", {"txt": f"t{number}", "label": "ab"[number % 2]}) for number in range(40)]
    assert len(cut({"train": renamed}, named, task, tmp_path)[0]["train"]) == 32


def test_one_class_no_rows_and_strange_labels_are_refused(task: Task, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 2 training rows have the label 'a'"):
        cut({"train": rows(("x", "a"), ("y", "a"))}, DataOptions(), task, tmp_path)
    with pytest.raises(
        DataError, match=r"(?s)all 2 training rows have the label 'a'.*1 bad rows:.*f:3: 'text' is empty"
    ):
        cut({"train": rows(("x", "a"), ("y", "a"), ("", "b"))}, DataOptions(), task, tmp_path)
    with pytest.raises(DataError, match="no rows"):
        cut({"train": []}, DataOptions(), task, tmp_path)
    with pytest.raises(DataError, match="the label 'c' of the validation split is not in train"):
        cut({"train": many(40), "validation": rows(("x", "c"))}, DataOptions(), task, tmp_path)
    with pytest.raises(DataError, match="too few to cut a validation split"):
        cut({"train": many(4)}, DataOptions(), task, tmp_path)
    with pytest.raises(DataError, match="is data.columns.label the right column"):
        cut({"train": rows(*((f"t{n}", f"l{n}") for n in range(30)))}, DataOptions(), task, tmp_path)


def test_a_split_with_nothing_left_is_refused_by_name(task: Task, tmp_path: Path) -> None:
    lenient = DataOptions(max_bad_rows=9)
    with pytest.raises(DataError, match=r"(?s)no row of the validation split is left: .*data\.validation.*f:1: 'text'"):
        cut({"train": many(40), "validation": rows((" ", "a"))}, lenient, task, tmp_path)
    with pytest.raises(DataError, match=r"(?s)no row of the test split is left.*the label 'c' of the test split"):
        cut({"train": many(40), "test": rows(("x", "c"), ("y", "c"))}, lenient, task, tmp_path)
    with pytest.raises(DataError, match=r"the test split has no rows: give data\.test some, or leave it out"):
        cut({"train": many(40), "test": []}, lenient, task, tmp_path)
    with pytest.raises(DataError, match=r"(?s)no row of the train split is left: mend them.*2 bad rows"):
        cut({"train": rows(("", "a"), ("x", ""))}, lenient, task, tmp_path)
    greedy = DataOptions(validation_fraction=0.49, test_fraction=0.49)
    with pytest.raises(
        DataError, match=r"4 different rows are too few to cut a test split of 49% from: give data\.test"
    ):
        cut({"train": many(4)}, greedy, task, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_rare_label_is_in_every_split(task: Task, tmp_path: Path) -> None:
    """Ten rows of a hundred have it: a cut that does not look at labels leaves it out of some split."""
    records = rows(*((f"text {number}", "rare" if number < 10 else "usual") for number in range(100)))
    for seed in range(5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        validate_and_split({"train": records}, DataOptions(split_seed=seed), task, folder, silent)
        counts = {split: Counter(row["label"] for row in Rows(folder, split)) for split in SPLITS}
        assert [counts[split]["rare"] for split in SPLITS] == [8, 1, 1]


def test_given_splits_stay_as_they_are(task: Task, tmp_path: Path) -> None:
    validation, test = rows(("v", "a"), ("v", "a"), ("u", "b")), rows(("t", "b"))
    splits, _, _ = cut({"train": many(30), "validation": validation, "test": test}, DataOptions(), task, tmp_path)
    assert splits["train"] == [record.values for record in many(30)]
    assert [row["text"] for row in splits["validation"]] == ["v", "v", "u"]
    assert [row["text"] for row in splits["test"]] == ["t"]
    splits, _, _ = cut({"train": many(30), "validation": validation}, DataOptions(max_rows=20), task, tmp_path)
    assert {split: len(found) for split, found in splits.items()} == {"train": 18, "validation": 3, "test": 2}


def test_rows_of_a_given_split_that_train_has_too_are_reported(task: Task, tmp_path: Path) -> None:
    notes: list[str] = []
    given_rows = {"train": many(30), "validation": many(32)[29:], "test": rows(("new", "a"))}
    validate_and_split(given_rows, DataOptions(), task, tmp_path, notes.append)
    assert notes == ["1 of 3 validation rows are in train too"]


def test_a_text_that_utf8_cannot_write_is_a_bad_row(task: Task, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"f:1: a text holds half of a surrogate pair"):
        cut({"train": [*rows(("\ud83d", "a")), *many(30)]}, DataOptions(), task, tmp_path)


def test_a_value_that_json_cannot_write_is_a_bad_row(task: Task, tmp_path: Path) -> None:
    strange = RawRecord("f:1", {"text": date(2020, 1, 1), "label": "a"})
    with pytest.raises(DataError, match=r"f:1: 'text' is date, not text"):
        cut({"train": [strange, *many(30)]}, DataOptions(), task, tmp_path)


def test_preparing_holds_no_texts_in_memory(task: Task, tmp_path: Path) -> None:
    count, text = 4000, "word " * 500
    records = (RawRecord("f", {"text": f"{number} {text}", "label": "ab"[number % 2]}) for number in range(count))
    tracemalloc.start()
    labels, _ = validate_and_split({"train": records}, DataOptions(), task, tmp_path, silent)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert labels == ["a", "b"]
    assert sum(len(Rows(tmp_path, split)) for split in SPLITS) == count
    assert peak < count * len(text) / 10


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.decimals(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=2),
    max_leaves=4,
)


@pytest.mark.slow(1)
@settings(max_examples=12)
@given(st.lists(st.fixed_dictionaries({"text": JSON_VALUES, "label": JSON_VALUES, "tokens": JSON_VALUES}), max_size=6))
@pytest.mark.parametrize("name", ["text_classification", "token_classification", "causal_lm"])
def test_any_values_are_prepared_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, values: list[Row]
) -> None:
    given_rows = [*values, *({"text": f"t{number}", "label": "ab"[number % 2]} for number in range(30))]
    records = [RawRecord(f"f:{number}", row | {"tags": row.get("label")}) for number, row in enumerate(given_rows)]
    task, folder = load_task(name, {}), tmp_path_factory.mktemp("any")
    try:
        splits, labels, _ = cut({"train": records}, DataOptions(max_bad_rows=99), task, folder)
    except DataError as error:
        assert str(error)
    else:
        assert all(isinstance(label, str) and label for label in labels)
        assert sum(map(len, splits.values())) >= 3


@given(st.lists(st.integers(1, 40), max_size=60), st.randoms())
def test_the_first_of_equal_rows_is_kept(hashes: list[int], draw: random.Random) -> None:
    numbers = list(range(len(hashes)))
    draw.shuffle(numbers)
    first = {hashes[number]: number for number in reversed(numbers)}
    assert list(deduplicate(array("Q", hashes), numbers)) == [
        number for number in numbers if first[hashes[number]] == number
    ]


@given(st.lists(st.fixed_dictionaries({"text": st.text(st.characters(codec="utf-8"))}), max_size=20), st.data())
def test_rows_on_the_disk_are_a_sequence(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[Row], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    with RowWriter(folder, "train") as writer:
        for row in given_rows:
            writer.add(encode_row(row))
    found = Rows(folder, "train")
    assert (len(found), list(found), list(reversed(found))) == (len(given_rows), given_rows, given_rows[::-1])
    part = data.draw(st.slices(len(given_rows)))
    assert found[part] == given_rows[part]
    for place in range(-len(given_rows), len(given_rows)):
        assert found[place] == given_rows[place]
    with pytest.raises(IndexError):
        found[len(given_rows)]


@pytest.mark.parametrize(
    "wrong", [{"validation_fraction": 0.6}, {"test_fraction": 0}, {"max_bad_rows": -1}, {"max_rows": 3}]
)
def test_wrong_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=f"data.{next(iter(wrong))}"):
        DataOptions(**wrong)  # type: ignore[arg-type]


def test_prepared_data_is_kept_by_its_bytes(tmp_path: Path, task: Task, reviews: Path) -> None:
    store = Store(tmp_path)
    copy = tmp_path / "copy.csv"
    copy.write_bytes(reviews.read_bytes())
    first = prepare_dataset(DataOptions(train=str(reviews)), task, store, silent)
    assert prepare_dataset(DataOptions(train=str(copy)), task, store, silent).folder == first.folder
    copy.write_text(copy.read_text() + "one more line,positive\n")
    changed = prepare_dataset(DataOptions(train=str(copy)), task, store, silent)
    assert changed.fingerprint != first.fingerprint
    assert (
        prepare_dataset(DataOptions(train=str(reviews), split_seed=3), task, store, silent).fingerprint
        != first.fingerprint
    )
    limited = prepare_dataset(DataOptions(train=str(reviews), max_rows=50), task, store, silent)
    assert sum(limited.counts.values()) <= 50
    assert len(first.rows("train")) == first.counts["train"]


def test_everything_that_decides_a_reading_is_in_the_key(tmp_path: Path, task: Task) -> None:
    store, content = Store(tmp_path), "text\n" + "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(40))
    for suffix in ("txt", "csv", "tsv"):
        (tmp_path / f"x.{suffix}").write_text(content.replace("text\n", "text,label\n", 1))
    written = load_task("causal_lm", {})
    lines, table = (
        prepare_dataset(DataOptions(train=str(tmp_path / f"x.{suffix}")), written, store, silent)
        for suffix in ("txt", "csv")
    )
    assert {row["text"].rpartition(",")[2] for row in lines.rows("train")} <= {"a", "b", "label"}
    assert all("," not in row["text"] for row in table.rows("train"))
    path = str(tmp_path / "x.tsv")
    options = [{}, {"separator": "comma"}, {"quoting": "double"}, {"encoding": "cp1252"}, {"validation_fraction": 0.2},
               {"max_bad_rows": 3}, {"columns": {"text": "text"}}, {"max_rows": 30}, {"group": "text"}]  # fmt: skip
    keys = {prepare_dataset(DataOptions(train=path, **one), task, store, silent).fingerprint for one in options}
    given_rows = [{"text": f"t{number}", "label": "ab"[number % 2]} for number in range(40)]
    in_memory = [one for one in options if not {"separator", "quoting", "encoding"} & set(one)]
    keys |= {prepare_rows({"train": given_rows}, DataOptions(**one), task, store).fingerprint for one in in_memory}
    assert len(keys) == len(options) + len(in_memory)


def test_options_of_a_task_are_in_the_key_unless_they_do_not_decide_rows(tmp_path: Path) -> None:
    given_rows = [{"text": f"t{number}"} for number in range(40)]
    options: list[dict[str, object]] = [{}, {"max_length": 64}, {"pack": True}]
    keys = [
        prepare_rows({"train": given_rows}, DataOptions(), load_task("causal_lm", one), Store(tmp_path)).fingerprint
        for one in options
    ]
    assert keys[0] == keys[1] != keys[2]


def test_rows_of_different_types_have_different_keys(tmp_path: Path, task: Task) -> None:
    def key(label: object) -> str:
        rows_of_labels = [{"text": f"t{number}", "label": [label, "b"][number % 2]} for number in range(40)]
        return prepare_rows({"train": rows_of_labels}, DataOptions(), task, Store(tmp_path)).fingerprint

    assert len({key(label) for label in ("a", b"x", "b'y'", "None", 1, True)}) == 6
    assert key(b"a") == key("a")


def test_one_row_without_a_label_is_a_bad_row(tmp_path: Path, task: Task) -> None:
    path = tmp_path / "x.jsonl"
    lines = [json.dumps({"text": f"t{number}", "label": "ab"[number % 2]}) for number in range(40)]
    path.write_text(
        "\n".join(['{"text": "first"}', *lines, '{"text": "last", "lable": "a"}', '{"text": "n", "label": NaN}'])
    )
    with pytest.raises(
        DataError, match=r"(?s)3 bad rows.*x\.jsonl:1: no column 'label'.*:42: no col.*:43: 'label' is empty"
    ):
        prepare_dataset(DataOptions(train=str(path)), task, Store(tmp_path), silent)
    data = prepare_dataset(DataOptions(train=str(path), max_bad_rows=3), task, Store(tmp_path), silent)
    assert sum(data.counts.values()) == 40


def test_guesses_are_reported_by_every_run(tmp_path: Path, task: Task) -> None:
    path = tmp_path / "x.csv"
    path.write_text("review;label\n" + "".join(f"t{number};{'ab'[number % 2]}\n" for number in range(40)))
    for _ in range(2):
        notes: list[str] = []
        data = prepare_dataset(DataOptions(train=str(path)), task, Store(tmp_path), notes.append)
        assert notes == list(data.notes)
        assert set(notes) == {
            "column 'review' is read as text (data.columns.text)",
            f"{path}: fields are separated by ';' (data.separator=semicolon)",
        }
    path.write_text("review;verdict\na;b\n")
    notes.clear()
    with pytest.raises(DataError, match="no column 'label'"):
        prepare_dataset(DataOptions(train=str(path)), task, Store(tmp_path), notes.append)
    assert notes == [f"{path}: fields are separated by ';' (data.separator=semicolon)"]


def test_rows_in_memory_are_prepared_alike(tmp_path: Path, task: Task) -> None:
    given_rows = [{"text": f"t{number}", "label": "ab"[number % 2]} for number in range(40)]
    data = prepare_rows({"train": given_rows}, DataOptions(), task, Store(tmp_path))
    assert data.counts == {"train": 32, "validation": 4, "test": 4}
    assert data.labels == ("a", "b")
    with pytest.raises(DataError, match="validation row 0: 'text' is empty"):
        prepare_rows(
            {"train": given_rows, "validation": [{"text": " ", "label": "a"}]}, DataOptions(), task, Store(tmp_path)
        )
