"""Parquet, Arrow and saved data sets: any value in any column, and the names of labels."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from fastserve_core.config import DataOptions
from fastserve_core.errors import DataError
from fastserve_data.files import Files
from fastserve_data.tests.reading import read, values

FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["bad", "good"], "_type": "ClassLabel"},
    "tags": {"feature": {"names": ["O", "B-X"], "_type": "ClassLabel"}, "_type": "List"},
}


def labelled(label: int, features: Any = FEATURES) -> pa.Table:
    table = pa.table({"text": ["a", "b"], "label": [label, 0], "tags": [[0, 1], []]})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_dates_after_9999_are_text(tmp_path: Path) -> None:
    path, day = tmp_path / "x.parquet", 10**7
    columns = {
        "text": ["a"],
        "day": pa.array([day], pa.date32()),
        "second": pa.array([day * 86_400], pa.timestamp("s")),
        "nano": pa.array([1], pa.timestamp("ns", "UTC")),
        "time": pa.array([1], pa.time64("ns")),
        "length": pa.array([7], pa.duration("s")),
    }
    parquet.write_table(pa.table(columns), path, version="2.6")
    (row,) = values(path)
    assert row["text"] == "a"
    assert row["day"].startswith("29349-")
    assert all(isinstance(row[name], str) for name in ("second", "nano", "time"))
    assert datetime.fromisoformat(row["nano"].replace("Z", "+00:00")) == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_column_that_cannot_be_read_is_left_out_and_reported(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.parquet", list[str]()
    late = pa.array([{"at": 10**15}, None] * 600, pa.struct([("at", pa.timestamp("ms"))]))
    parquet.write_table(pa.table({"text": ["a", "b"] * 600, "late": late}), path)
    assert values(path, notes) == [{"text": "a"}, {"text": "b"}] * 600
    assert len(notes) == 1
    assert notes[0].startswith(f"{path}: column 'late' cannot be read and is left out")


def test_bytes_of_a_text_column_stay_in_their_row(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff"))
    parquet.write_table(pa.table({"text": broken, "price": [Decimal("1.50"), None]}), path)
    assert [row["text"] for row in values(path)] == [b"a", b"\xff"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), path)
    with pytest.raises(DataError, match="two columns are named 'text'"):
        read(path)


def test_labels_have_their_names(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.parquet", list[str]()
    parquet.write_table(labelled(1), path)
    expected = [{"text": "a", "label": "good", "tags": ["O", "B-X"]}, {"text": "b", "label": "bad", "tags": []}]
    assert values(path, notes) == expected
    assert notes[0] == f"{path}: the labels of column 'label' have names: bad, good"
    parquet.write_table(labelled(-1), path)
    assert values(path)[0]["label"] is None
    for features in ({"label": 3}, [], {"label": [{"_type": "ClassLabel"}]}, {"label": {"feature": None}}):
        parquet.write_table(labelled(1, features), path)
        assert values(path)[0]["label"] == 1


@pytest.mark.parametrize("make", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_files_of_both_kinds(tmp_path: Path, make: Any) -> None:
    table = pa.table({"text": ["a", "b"] * 1500})
    with make(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert values(tmp_path / "x.arrow") == [{"text": "a"}, {"text": "b"}] * 1500


@pytest.mark.parametrize("make", [pa.ipc.new_stream, pa.ipc.new_file])
def test_offsets_beyond_the_data_are_refused(tmp_path: Path, make: Any) -> None:
    path, table = tmp_path / "x.arrow", pa.table({"text": ["a", "b"]})
    with make(str(path), table.schema) as writer:
        writer.write_table(table)
    offsets = b"".join(number.to_bytes(4, "little") for number in range(3))
    start, _, end = path.read_bytes().rpartition(offsets)
    path.write_bytes(start + offsets[:8] + (40).to_bytes(4, "little") + end)
    with pytest.raises(DataError, match=r"x\.arrow is not a valid Arrow file"):
        read(path)


def test_a_data_set_that_was_saved_is_read_as_it_was(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = [{"text": f"t{number}", "label": number % 2} for number in range(6)]
    whole = datasets.Dataset.from_list(rows, features=features).select(range(1, 6))
    whole.save_to_disk(tmp_path / "one", num_shards=2)
    expected = [{"text": f"t{number}", "label": ["bad", "good"][number % 2]} for number in range(1, 6)]
    assert values(tmp_path / "one") == expected
    split = datasets.DatasetDict({"train": whole, "valid": whole.select([0]), "test": whole.select([1])})
    split.save_to_disk(tmp_path / "all")
    notes: list[str] = []
    found = Files().read(DataOptions(train=str(tmp_path / "all")), tmp_path, notes.append)
    sizes = {name: len(list(records)) for name, records in found.items()}
    assert sizes == {"train": 5, "validation": 1, "test": 1}
    assert f"{tmp_path}/all: validation is valid" in notes
    assert values(tmp_path / "all" / "test") == expected[1:2]
    with pytest.raises(DataError, match=r"has several splits \(test, train, valid\): name one of them"):
        read(tmp_path / "all" / "train", validation=str(tmp_path / "all"))


@pytest.mark.parametrize(
    "state", ["", "{}", "[]", '{"_data_files": 3}', '{"_data_files": [{"filename": "../none.arrow"}]}']
)
def test_a_saved_data_set_that_is_none_is_refused(tmp_path: Path, state: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "state.json").write_text(state)
    with pytest.raises(DataError, match="is not a valid saved data set"):
        read(tmp_path / "set")


def test_a_saved_selection_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "state.json").write_text('{"_data_files": [], "_indices_data_files": [{}]}')
    with pytest.raises(DataError, match="flatten_indices"):
        read(tmp_path / "set")
