"""Files of every kind give the same rows, and every fault has a place."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.config import DataOptions
from fastserve_core.errors import DataError
from fastserve_data.files import Files
from fastserve_data.tests.reading import read, values

ROWS = [{"text": "one, two", "label": "a"}, {"text": 'a "quoted"\nline', "label": "b"}, {"text": "中文", "label": "a"}]


def write_separated(path: Path, rows: list[dict[str, str]], delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    write_separated(tmp_path / "x.csv", ROWS, ",")
    write_separated(tmp_path / "x.tsv", ROWS, "\t")
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        assert values(tmp_path / f"x.{suffix}", quoting="double") == ROWS, suffix


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_fingerprint_is_that_of_all_files(tmp_path: Path, split: str) -> None:
    paths = {name: tmp_path / f"{name}.csv" for name in ("train", "validation", "test")}
    for path in paths.values():
        write_separated(path, ROWS, ",")
    options = DataOptions(**{name: str(path) for name, path in paths.items()})
    before = Files().fingerprint(options, tmp_path)
    assert Files().fingerprint(options, tmp_path) == before
    write_separated(paths[split], ROWS[:2], ",")
    assert Files().fingerprint(options, tmp_path) != before


@given(
    st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")), st.text("ab")), max_size=20)
)
def test_files_of_the_csv_module_are_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    rows = [{"text": text, "label": label} for text, label in pairs]
    if rows:
        write_separated(path, rows, ",")
        assert values(path) == rows


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_row_is_given_before_the_next_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "jsonl":
        path.write_text(json.dumps(ROWS[0]) + "\n")
    else:
        write_separated(path, ROWS[:1], "," if suffix == "csv" else "\t")
    with path.open("ab") as file:
        file.write(b" " * 100_000 + b"\xff")  # beyond what is decoded at once
    records = Files().read(DataOptions(train=str(path)), tmp_path, print)["train"]
    assert next(records).values == ROWS[0]
    with pytest.raises(DataError, match="not UTF-8"):
        next(records)


def test_a_parquet_row_group_larger_than_memory_is_read_in_parts(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path, size = tmp_path / "x.parquet", 20_000_000
    table = pa.table({"text": [f"{number:08}" * 125 for number in range(size // 1000)]})
    parquet.write_table(table, path, row_group_size=size, compression="none", use_dictionary=False)
    del table
    before = pa.total_allocated_bytes()
    records = Files().read(DataOptions(train=str(path)), tmp_path, print)["train"]
    assert next(records).values == {"text": "00000000" * 125}
    assert pa.total_allocated_bytes() - before < size / 2
    assert sum(1 for _ in records) == size // 1000 - 1


def test_a_file_without_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastserve_data.text_files.MAX_LINE_CHARACTERS", 1000)
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "a" * 10_000}))
    with pytest.raises(DataError, match=r"x\.jsonl:1: the line is longer than"):
        read(tmp_path / "x.jsonl")


def test_a_byte_order_mark_is_not_part_of_the_header(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbftext,label\nhello,a\n")
    assert values(tmp_path / "x.csv") == [{"text": "hello", "label": "a"}]


def test_each_fault_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label\nfine,a\ntoo,many,fields\n\n")
    good, bad = read(tmp_path / "x.csv")
    assert good.where.endswith("x.csv:2")
    assert bad.where.endswith("x.csv:3")
    assert bad.fault == "3 fields, but the header has 2"
    (tmp_path / "x.jsonl").write_text('{"text": 1}\n[1]\nnope\n')
    assert [record.fault[:9] for record in read(tmp_path / "x.jsonl")] == ["", "not a JSO", "not valid"]


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("")
    cases = [
        (None, "no training data: set data.train=FILE"),
        ("review.csv", r"review\.csv does not exist; did you mean 'reviews\.csv'"),
        ("reviews.csv", "is empty"),
        ("reviews.pdf", r"unsupported file type reviews\.pdf; supported: \.csv, \.tsv"),
        ("*.json", r"data\.train: no file matches .*\*\.json"),
        ("none/*.csv", r"data\.train: no file matches"),
        ("a**/b", r"data\.train: no file matches"),
        ("notes", r"data\.train: the folder .*notes has no data files"),
    ]
    (tmp_path / "reviews.pdf").write_text("x")
    (tmp_path / "notes").mkdir()
    for name, said in cases:
        options = DataOptions(train=str(tmp_path / name) if name else None)
        with pytest.raises(DataError, match=said):
            Files().fingerprint(options, tmp_path)


def test_a_parquet_that_is_none_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no parquet at all")
    with pytest.raises(DataError, match="is not a valid Parquet file"):
        read(tmp_path / "x.parquet")


def test_the_fingerprint_is_of_bytes_and_formats(tmp_path: Path) -> None:
    contents = {"a.csv": "x,y", "b.csv": "x,y", "c.csv": "x,z", "d.txt": "x,y", "e.tsv": "x,y", "f.csv.gz": "x,y"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    keys = [Files().fingerprint(DataOptions(train=str(tmp_path / name)), tmp_path) for name in contents]
    assert keys[0] == keys[1] == keys[5]
    assert len(set(keys)) == 4
    pairs = ([tmp_path / "a.csv", tmp_path / "c.csv"], [tmp_path / "c.csv", tmp_path / "a.csv"])
    both = [Files().fingerprint(DataOptions(train=list(map(str, pair))), tmp_path) for pair in pairs]
    assert len({*keys, *both}) == 6
