"""Streams that are read once, and files that grow: every line is a row or a reported fault."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.config import DataOptions
from fastserve_core.data import RawRecord
from fastserve_core.errors import DataError, UnknownNameError, UserError
from fastserve_data import tail
from fastserve_data.files import Files
from fastserve_data.row_stream import RowStream

SOURCE = Files()


def read(content: bytes, row_format: str | None = None, notes: list[str] | None = None, **options: Any) -> list[Any]:
    report = (notes if notes is not None else []).append
    found, records = SOURCE.read_stream(io.BytesIO(content), "stdin", row_format, DataOptions(**options), report)
    return [found, *[record.values or record.fault for record in records]]


@pytest.mark.parametrize(
    ("content", "row_format", "rows"),
    [
        (b'id,text\n1,"two\nlines"\n', None, ["csv", {"id": "1", "text": "two\nlines"}]),
        (b"id\ttext\n1\ta, b\n", None, ["tsv", {"id": "1", "text": "a, b"}]),
        ("﻿text;n\n好;1\n".encode(), None, ["csv", {"text": "好", "n": "1"}]),
        (b'\n {"text": "a"}\n\n{"text": 1}\n[]\n', "jsonl", ["jsonl", {"text": "a"}, {"text": 1}, "not a JSON object"]),
        (gzip.compress(b'{"text": "a"}', mtime=0), None, ["jsonl", {"text": "a"}]),
        ("text\né\n".encode("utf-16"), None, ["csv", {"text": "é"}]),
        (b" one, two \n\nthree", "txt", ["txt", {"text": "one, two"}, {"text": "three"}]),
        (b"text,n\na\n", None, ["csv", "1 fields, but the header has 2"]),
    ],
)
def test_a_stream_is_read_as_a_file_is(content: bytes, row_format: str | None, rows: list[Any]) -> None:
    notes: list[str] = []
    assert read(content, row_format, notes) == rows
    assert any("--format" in note for note in notes) == (row_format is None)


@pytest.mark.parametrize(
    ("content", "row_format", "said"),
    [
        (b"text\nfine\ncaf\xe9\n", None, "stdin, after line 0: the text is not utf-8"),
        (gzip.compress(b"text\na\n", mtime=0)[:-9], None, "stdin"),
        (b'text\n"open\n', None, "never closed"),
        (b"", "csv", "has no header"),
        (b'[{"text": "a"}]', None, "begins as a JSON array: write it to a file that ends in .json"),
    ],
)
def test_a_stream_that_cannot_be_read_is_refused(content: bytes, row_format: str | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(content, row_format)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'jsonl'"):
        read(b"", "json")


# -- following ---------------------------------------------------------------------------------------


class Follower:
    """The records of a followed file, and the means to end it."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.notes: list[str] = []
        self.stop = threading.Event()
        _, self.records = SOURCE.follow(str(path), None, DataOptions(**options), self.notes.append, self.stop.is_set)

    def take(self, count: int) -> list[Any]:
        return [record.values or f"{record.where.split('/')[-1]}: {record.fault}" for record in self._next(count)]

    def _next(self, count: int) -> Iterator[RawRecord]:
        timer = threading.Timer(60, self.stop.set)  # so that a fault fails, and does not wait for ever
        timer.start()
        yield from islice(self.records, count)
        timer.cancel()

    def end(self) -> list[Any]:
        self.stop.set()
        return self.take(99)


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "POLL_SECONDS", 0.001)


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def test_lines_are_rows_when_they_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text("id,text\n1,fine\n2,half")
    follower = Follower(path)
    assert follower.take(1) == [{"id": "1", "text": "fine"}]
    append(path, b" a line\n")
    assert follower.take(1) == [{"id": "2", "text": "half a line"}]
    append(path, b"3,not comp")
    assert follower.end() == []
    assert not [note for note in follower.notes if "not complete" in note]  # it stopped before it read the line


def test_a_broken_line_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_bytes(b'id,text\n1,"open\n2,caf\xe9\n3\n4,"a ""good"" one"\n')
    follower = Follower(path)
    first, second, third, fourth = follower.take(4)
    assert "posts.csv:2: its quotes do not match" in first
    assert second == "posts.csv:3: byte 6 of the line is not text: data.encoding=NAME names the encoding"
    assert third == "posts.csv:4: 1 fields, but the header has 2"
    assert fourth == {"id": "4", "text": 'a "good" one'}


def test_a_file_that_is_replaced_is_read_to_its_end_and_then_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text('{"text": "a"}\n')
    follower = Follower(path)
    assert follower.take(1) == [{"text": "a"}]
    append(path, b'{"text": "b"}')
    path.rename(tmp_path / "posts.jsonl.1")
    path.write_text('{"text": "c"}\n')
    assert follower.take(2) == [{"text": "b"}, {"text": "c"}]
    assert f"{path} was replaced: it is read from its start" in follower.notes


def test_a_file_that_is_truncated_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text("text,n\na long first text,1\nhalf a li")
    follower = Follower(path)
    assert follower.take(1) == [{"text": "a long first text", "n": "1"}]
    threading.Timer(0.05, lambda: path.write_text("text,m\nb,2\n")).start()
    assert follower.take(1) == [{"text": "b", "m": "2"}]
    assert any("posts.csv:3: the line was not complete" in note for note in follower.notes)
    assert f"{path} was truncated: it is read from its start" in follower.notes


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("posts.csv.gz", gzip.compress(b"text\n", mtime=0), "cannot be read line by line"),
        ("posts.parquet", b"PAR1", "cannot be read line by line"),
        ("posts.csv", "text\n".encode("utf-16"), "is utf-16, and --follow reads lines of plain bytes"),
        ("posts.csv", b"te\xffxt\n", "posts.csv:1: byte 3 of the line is not text"),
    ],
)
def test_files_without_lines_of_bytes_are_not_followed(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        Follower(tmp_path / name).take(1)


PARTS = st.sampled_from(
    [
        b"text,n\n",
        b"a,1\n",
        b'"',
        b"\n",
        b"\r\n",
        b"\xff",
        b"{",
        b'{"text": "a"}\n',
        "好,2\n".encode(),
        b"\0",
        b"sep=;\n",
    ]
)


@given(
    st.lists(PARTS | st.binary(max_size=3), max_size=9).map(b"".join), st.sampled_from(["csv", "tsv", "jsonl", "txt"])
)
def test_any_followed_bytes_give_rows_faults_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, row_format: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "followed"
    path.write_bytes(content)
    looks = iter([False, False])  # one at the file, and one read
    try:
        _, records = SOURCE.follow(str(path), row_format, DataOptions(), lambda _: None, lambda: next(looks, True))
        found = list(records)
    except UserError as error:
        assert str(error)
    else:
        assert len(found) <= content.count(b"\n")
        assert all(record.fault if record.values is None else record.where for record in found)


def test_a_missing_file_is_not_followed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none.csv does not exist"):
        Follower(tmp_path / "none.csv")


PIECES = st.lists(
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), max_size=6), max_size=5
)


@given(PIECES, st.data())
def test_however_the_bytes_arrive_the_rows_are_the_same(texts: list[str], data: st.DataObject) -> None:
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    ends = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=4)))
    reader, writer = os.pipe()
    threading.Thread(target=_write_parts, args=(writer, content, [0, *ends, len(content)])).start()
    lines = _decode(reader, lambda: False)
    assert [json.loads(line) for line in lines] == [{"text": text} for text in texts]


def _write_parts(writer: int, content: bytes, ends: list[int]) -> None:
    for start, end in pairwise(ends):
        os.write(writer, content[start:end])
    os.close(writer)


def _decode(reader: int, stop: Callable[[], bool]) -> list[bytes]:
    with io.BufferedReader(tail.WaitingInput(reader, stop)) as stream:
        lines = stream.readlines()
    os.close(reader)
    return lines


# -- writing -----------------------------------------------------------------------------------------


CELLS = st.one_of(st.none(), st.text(max_size=4), st.integers(-9, 9), st.lists(st.integers(), max_size=2))


@given(
    st.lists(st.fixed_dictionaries({"a": CELLS, "b": CELLS}), min_size=1, max_size=5), st.sampled_from(["csv", "tsv"])
)
def test_a_table_has_every_value(rows: list[dict[str, Any]], row_format: str) -> None:
    buffer = io.BytesIO()
    output = RowStream(buffer, row_format)
    output.write(rows[:1])
    output.write(rows[1:])
    output.close()
    text = io.StringIO(buffer.getvalue().decode(), newline="")
    found = list(csv.DictReader(text, delimiter="," if row_format == "csv" else "\t"))
    for row, line in zip(rows, found, strict=True):
        for name, value in row.items():
            assert line[name] == (json.dumps(value) if isinstance(value, list) else "" if value is None else str(value))


def test_columns_that_come_later_are_counted() -> None:
    buffer = io.BytesIO()
    output = RowStream(buffer, "csv")
    output.write([{"a": 1}])
    output.write([{"a": 2, "b": 3}, {"b": 4}])
    output.close()
    assert buffer.getvalue() == b'a\n1\n2\n""\n'
    assert output.dropped == {"b": 2}
