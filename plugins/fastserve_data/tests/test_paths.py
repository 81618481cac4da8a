"""Several files, patterns and folders."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fastserve_core.config import DataOptions
from fastserve_core.errors import DataError, OptionError
from fastserve_data.files import Files
from fastserve_data.tests.reading import read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.csv", "a.csv", "c[1].csv"):
        (tmp_path / name).write_text(f"text,label\n{name},x\n")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(b'{"text": "d.jsonl.gz", "label": "x"}\n'))
    (tmp_path / "notes.md").write_text("no data")
    (tmp_path / ".hidden.csv").write_text("text,label\nhidden,x\n")
    return tmp_path


def texts(given: object, **options: object) -> list[str]:
    records = Files().read(DataOptions(train=given, **options), Path(), print)["train"]  # type: ignore[arg-type]
    return [record.values["text"] for record in records if record.values]


def test_files_are_read_in_the_order_of_their_names(folder: Path) -> None:
    assert texts(f"{folder}/*.csv") == ["a.csv", "b.csv", "c[1].csv"]
    assert texts(str(folder)) == ["a.csv", "b.csv", "c[1].csv", "d.jsonl.gz"]
    assert texts([f"{folder}/b.csv", f"{folder}/d*"]) == ["b.csv", "d.jsonl.gz"]
    assert texts(f"{folder}/c[1].csv") == ["c[1].csv"]
    assert texts(f"{folder.parent}/**/{folder.name}/[ab].csv") == ["a.csv", "b.csv"]


def test_a_folder_may_have_the_splits(folder: Path) -> None:
    for name in ("train-00001.csv", "train-00000.csv", "Dev.csv", "test.csv", "testimonials.csv"):
        (folder / name).write_text(f"text,label\n{name},x\n")
    notes: list[str] = []
    found = Files().read(DataOptions(train=str(folder)), folder, notes.append)
    rows = {split: [row.values["text"] for row in records if row.values] for split, records in found.items()}
    assert rows == {"train": ["train-00000.csv", "train-00001.csv"], "validation": ["Dev.csv"], "test": ["test.csv"]}
    assert f"{folder}: train is train-00000.csv, train-00001.csv" in notes
    given = Files().read(DataOptions(train=str(folder), test=str(folder / "a.csv")), folder, notes.append)
    assert [record.where for record in given["test"]] == [f"{folder / 'a.csv'}:2"]


@pytest.mark.parametrize("given", [3.5, {"a": 1}, [""], "", [3]])
def test_values_that_are_no_paths_are_refused(given: object) -> None:
    if given == "":
        with pytest.raises(DataError, match="no training data"):
            texts(given)
    else:
        with pytest.raises(OptionError, match="data.train must be a path or a list of paths"):
            texts(given)


def test_files_without_permission_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # the tests may run as root, who may read everything
    with pytest.raises(DataError, match="no permission to read"):
        read(folder / "a.csv")
