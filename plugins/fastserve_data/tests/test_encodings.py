"""Encodings: marks and compressions are recognised, other bytes are refused with the right advice."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from fastserve_core.config import DataOptions
from fastserve_core.errors import DataError, OptionError
from fastserve_data.tests.reading import read, values

TEXT = "text,label\n屏幕很清楚，很喜欢,好\n声音太小了,差\n"
ROWS = [{"text": "屏幕很清楚，很喜欢", "label": "好"}, {"text": "声音太小了", "label": "差"}]
FRENCH = "text,label\nLe café était fermé — déçu,non\nTrès bonne journée à la plage,oui\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.replace("\n", "\r").encode("utf-16"),
        gzip.compress(TEXT.encode()),
        bz2.compress(TEXT.encode("utf-16")),
        lzma.compress(TEXT.encode()),
    ],
    ids=["utf-8", "utf-16", "utf-16-be", "utf-32", "carriage returns", "gzip", "bzip2", "xz"],
)
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_marks_and_compressions_are_recognised_by_their_bytes(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert values(tmp_path / name) == ROWS


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "json"])
def test_every_text_format_is_decoded_alike(tmp_path: Path, suffix: str) -> None:
    line = "早上好" if suffix == "txt" else '{"text": "早上好"}'
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / f"x.{suffix}").write_bytes(gzip.compress(f"{line}\n{line}\n".encode(encoding)))
        assert values(tmp_path / f"x.{suffix}") == [{"text": "早上好"}] * 2


@pytest.mark.parametrize(
    ("text", "encoding", "line"),
    [
        (TEXT, "gb18030", "屏幕很清楚，很喜欢,好"),
        ("text,label\n螢幕很清楚,好\n聲音太小了,差\n", "big5", "螢幕很清楚,好"),
        ("text,label\nnaïve,a\n", "cp1252", "naïve,a"),
        (FRENCH, "cp1252", "Le café était fermé — déçu,non"),
        ("text,label\nХороший фильм,да\n", "cp1251", "Хороший фильм,да"),
    ],
)
def test_the_advice_is_the_right_encoding(tmp_path: Path, text: str, encoding: str, line: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=r"x\.csv:2: byte \d+ of the line is not UTF-8") as error:
        read(path)
    assert f"; data.encoding={encoding} reads the line as '{line}'" in str(error.value)
    assert str(error.value).index("data.encoding=") == str(error.value).index(f"data.encoding={encoding}")
    read_rows = values(path, encoding=encoding)
    assert ",".join(read_rows[0].values()) == line


def test_a_damaged_byte_is_no_encoding(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("text,label\n好,a\n".encode() + b"b\xff,b\n")
    with pytest.raises(DataError, match=r"csv:3: byte 2 of the line is not UTF-8, but the lines before it are"):
        read(path)


def test_lines_are_counted_with_any_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"text,label\rfine,a\rcaf\xe9,b\r")
    with pytest.raises(DataError, match=r"x\.csv:3: byte 4 of the line is not UTF-8"):
        read(path)


def test_a_wrong_option_is_reported(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.csv", list[str]()
    path.write_text(FRENCH, encoding="utf-8")
    values(path, notes, encoding="cp1252")
    assert notes == [f"{path}: the file is UTF-8, and data.encoding=cp1252 reads it otherwise"]
    with pytest.raises(DataError, match=r"x\.csv:2: byte .* is not euc_kr; it is UTF-8: leave data.encoding out"):
        read(path, encoding="euc-kr")
    path.write_text(FRENCH, encoding="cp1252")
    values(path, notes, encoding="latin1")
    assert len(notes) == 1
    with pytest.raises(DataError, match=r"x\.csv: the file is not utf-16"):
        read(path, encoding="utf-16")


@pytest.mark.parametrize("name", ["utf-9", "hex", "gzip", ""])
def test_an_encoding_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=r"data\.encoding: Python has no text encoding"):
        DataOptions(encoding=name)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (TEXT.encode("utf-16-le"), "looks like UTF-16 without a byte order mark: data.encoding=utf-16-le reads it"),
        (FRENCH.encode("utf-16-be"), "looks like UTF-16 without a byte order mark: data.encoding=utf-16-be reads it"),
        (b"text,label\na\0b,c\n", "has zero bytes, so that it is not text"),
        (b"PK\x03\x04....", "is a zip archive or an Excel file"),
        (b"PAR1....", "is a Parquet file: name it .parquet"),
        (b"\x28\xb5\x2f\xfd....", "is compressed with zstd"),
        (gzip.compress(TEXT.encode() * 9)[:-20], "cannot be read: "),
        (gzip.compress(TEXT.encode())[:12] + b"damaged" * 9, "cannot be read: "),
        (bz2.compress(TEXT.encode())[:-9], "cannot be read: "),
        (lzma.compress(TEXT.encode())[:-9], "cannot be read: "),
    ],
    ids=range(10),
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, data: bytes, fault: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=fault):
        read(path)


def test_utf16_without_a_mark_is_read_by_the_option(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(TEXT.encode("utf-16-be"))
    assert values(tmp_path / "x.csv", encoding="UTF-16BE") == ROWS


@pytest.mark.parametrize("make", [gzip.compress, bz2.compress])
def test_a_file_that_is_unpacked_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr("fastserve_data.text_files.MAX_LINE_CHARACTERS", 10_000)
    (tmp_path / "x.csv").write_bytes(make(b"a" * 1_000_000))
    with pytest.raises(DataError, match=r"x\.csv:1: the line is longer than"):
        read(tmp_path / "x.csv")
