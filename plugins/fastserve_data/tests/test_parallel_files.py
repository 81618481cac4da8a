"""Folders of parallel files, and JSON files that hold several splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastserve_core.config import DataOptions
from fastserve_core.errors import DataError
from fastserve_data.files import Files
from fastserve_data.tests.reading import read, values


def write_folder(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return folder


def read_splits(**given: Path) -> tuple[dict[str, list[object]], list[str]]:
    notes: list[str] = []
    options = DataOptions(**{split: str(path) for split, path in given.items()})
    splits = Files().read(options, Path(), notes.append)
    return {split: [record.values for record in records] for split, records in splits.items()}, notes


def test_lines_of_one_number_are_a_row(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "a", seq_in="fly to Rome\n\nbye\n", seq_out="O O B-city\n\nO\n", label="book\n\nend\n"
    )
    records = read(folder)
    assert [record.values for record in records] == [
        {"tokens": ["fly", "to", "Rome"], "tags": ["O", "O", "B-city"], "intent": "book"},
        {"tokens": ["bye"], "tags": ["O"], "intent": "end"},
    ]
    assert records[1].where == f"{folder}/seq.in:3"


def test_intents_alone_are_enough(tmp_path: Path) -> None:
    assert values(write_folder(tmp_path / "a", seq_in="bye\n", label="end\n")) == [{"tokens": ["bye"], "intent": "end"}]


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", seq_in="a\nb\nc\n", seq_out="O\nO\n", label="x\ny\nz\n")
    with pytest.raises(DataError, match=r"seq\.out ends before line 3, which seq\.in has"):
        read(folder)


def test_a_folder_of_folders_has_the_splits(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        write_folder(tmp_path / name, seq_in=f"{name}\n", label="x\n")
    splits, notes = read_splits(train=tmp_path)
    assert splits == {
        split: [{"tokens": [name], "intent": "x"}]
        for split, name in (("train", "train"), ("validation", "dev"), ("test", "test"))
    }
    assert len(notes) == 3


CLINC = {
    "oos_val": [["o2", "oos"]],
    "val": [["b", "y"]],
    "train": [["a", "x"], "broken"],
    "oos_train": [["o1", "oos"]],
    "test": [["c", "x"]],
}


def test_one_json_file_may_hold_all_splits(tmp_path: Path) -> None:
    path = tmp_path / "clinc.json"
    path.write_text(json.dumps(CLINC, indent=1))
    splits, notes = read_splits(train=path)
    assert splits["train"] == [{"text": "a", "label": "x"}, None, {"text": "o1", "label": "oos"}]
    assert splits["validation"] == [{"text": "b", "label": "y"}, {"text": "o2", "label": "oos"}]
    assert splits["test"] == [{"text": "c", "label": "x"}]
    assert f"{path}: train is train, oos_train" in notes
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "d", "label": "x"}\n')
    splits, notes = read_splits(train=path, test=other, validation=path)
    assert f"{path}: validation is val, oos_val" in notes
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [3, 2, 1]
    assert splits["test"] == [{"text": "d", "label": "x"}]


def test_a_file_without_training_rows_of_its_own_is_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"test": [{"text": "a", "label": "x"}]}')
    assert read_splits(train=path)[0] == {"train": [{"text": "a", "label": "x"}]}


def test_splits_of_a_huge_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clinc.json"
    path.write_text(json.dumps(CLINC))
    monkeypatch.setattr("fastserve_data.json_splits.MAX_BYTES", 10)
    with pytest.raises(DataError, match="holds several splits and has more than 0 MB: write a file for each"):
        read_splits(train=path)


def test_the_fingerprint_changes_with_each_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", seq_in="a\n", label="x\n")
    before = Files().fingerprint(DataOptions(train=str(folder)), tmp_path)
    (folder / "label").write_text("y\n")
    assert Files().fingerprint(DataOptions(train=str(folder)), tmp_path) != before
