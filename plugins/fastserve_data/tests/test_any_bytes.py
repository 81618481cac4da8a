"""Any bytes give rows or one of our errors, whatever the suffix."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from fastserve_core.errors import UserError
from fastserve_data.files import READERS
from fastserve_data.tests.reading import read

SUFFIXES = [suffix for suffix in READERS if suffix]
PIECES = [
    b"text,label\n", b'"', b"\t", b";", b"sep=;\n", b"\r", b"\0", b"[", b"{", b'{"text": "a", "label": 1}', b"}",
    b"]", b",", b"NaN", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1f\x8b", b"\xd7\xd6", "é好".encode(), b"PAR1", b"\n",
    b"1e999", gzip.compress(b"text\na\n", mtime=0), b"\xed\xa0\x80", b"\\ud800",
]  # fmt: skip
CONTENTS = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=12).map(b"".join)
ENCODINGS = st.sampled_from(["auto", "utf-16", "gb18030", "cp1252", "utf-7"])


@pytest.mark.slow(1)
@settings(max_examples=200)
@given(CONTENTS, st.sampled_from(SUFFIXES), ENCODINGS, st.sampled_from(["auto", "double", "none"]))
@example(b"{" * 3000, ".json", "auto", "auto")
@example(b"[" * 3000, ".jsonl", "auto", "auto")
def test_any_bytes_give_rows_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str, encoding: str, quoting: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    try:
        records = read(path, encoding=encoding, quoting=quoting)
    except UserError as error:
        assert str(error)
    else:
        assert all(record.fault if record.values is None else record.where for record in records)


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_file_gives_rows_or_an_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = _write_tables(folder)
    path = data.draw(st.sampled_from(whole))
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] ^= data.draw(st.integers(1, 255))
    damaged = folder / f"damaged{path.suffix}"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)))] or b"x")
    try:
        read(damaged)
    except UserError as error:
        assert str(error)


def _write_tables(folder: Path) -> list[Path]:
    paths = [folder / "whole.parquet", folder / "whole.arrow"]
    if not paths[1].exists():
        table = pa.table(
            {"text": ["a", "b"] * 20, "label": pa.array([1, None] * 20), "day": pa.array([3] * 40, pa.date32())}
        )
        parquet.write_table(table, paths[0])
        with pa.ipc.new_stream(str(paths[1]), table.schema) as writer:
            writer.write_table(table)
    return paths
