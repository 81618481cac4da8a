"""The hub source reads whatever `datasets` can load; here from local files, as no test leaves this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastserve_core.config import DataOptions
from fastserve_core.errors import DataError
from fastserve_data.hub import Hub, iterate_records


@pytest.mark.slow
def test_a_local_data_set_is_read_with_its_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.csv").write_text("text,label\ngood,1\nbad,0\n")
    options = DataOptions(source="hub", name=str(folder))
    rows = [record.values for record in Hub().read(options, tmp_path, print)["train"]]
    assert rows == [{"text": "good", "label": 1}, {"text": "bad", "label": 0}]
    assert Hub().fingerprint(options, tmp_path) == Hub().fingerprint(options, tmp_path)


@pytest.mark.slow
def test_a_set_that_cannot_be_loaded_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    with pytest.raises(DataError, match="could not be loaded"):
        Hub().read(DataOptions(source="hub", name=str(tmp_path / "nowhere")), tmp_path, print)


@pytest.mark.slow
def test_a_sets_own_splits_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "set"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        (folder / f"{split}.csv").write_text(f"text,label\nof {split},1\n")
    found = Hub().read(DataOptions(source="hub", name=str(folder)), tmp_path, print)
    texts = {split: [record.values["text"] for record in records] for split, records in found.items()}
    assert texts == {split: [f"of {split}"] for split in ("train", "validation", "test")}


def test_labels_have_their_names_and_minus_one_is_none() -> None:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"label": label, "tags": datasets.List(label), "text": datasets.Value("string")})
    rows = [{"label": -1, "tags": [0, 1, -1], "text": "a"}, {"label": 1, "tags": [], "text": "b"}]
    records = iterate_records("set", "test", datasets.Dataset.from_list(rows, features=features))
    assert [record.values for record in records] == [
        {"label": None, "tags": ["bad", "good", None], "text": "a"},
        {"label": "good", "tags": [], "text": "b"},
    ]
