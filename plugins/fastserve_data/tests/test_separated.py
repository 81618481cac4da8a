"""CSV and TSV: every row is read once, or the fault is reported with its line."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import DataError
from fastserve_data.tests.reading import read, values

GOOD = [{"text": "fine", "label": "a"}, {"text": "dull", "label": "b"}]


def test_quotes_in_tsv_are_text_unless_the_option_requests_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text('text\tlabel\n"great\ta\nan "open" mind\tb\n5" disk\ta\n"whole"\tb\nend"\ta\n')
    notes: list[str] = []
    assert [row["text"] for row in values(path, notes)] == ['"great', 'an "open" mind', '5" disk', '"whole"', 'end"']
    assert notes == [f"{path}: quotes round 1 fields are read as text (data.quoting=double removes them)"]
    path.write_text('text\tlabel\n"a ""quoted""\nline"\tb\n')
    assert values(path, notes, quoting="double") == [{"text": 'a "quoted"\nline', "label": "b"}]
    assert notes[1:] == [f"{path}: 1 rows have line ends within quotes (data.quoting=none ends rows there)"]


def test_quotes_in_csv_are_text_if_the_option_requests_it(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('text,label\n"open,a\nclose",b\n')
    assert [row["text"] for row in values(path, quoting="none")] == ['"open', 'close"']


@pytest.mark.parametrize(
    ("name", "content", "options", "notes"),
    [
        ("x.csv", "text;label\nfine;a\ndull;b\n", {}, ["';' (data.separator=semicolon)"]),
        ("x.csv", "text|label\nfine|a\ndull|b\n", {}, ["'|' (data.separator=pipe)"]),
        ("x.csv", "text\tlabel\nfine\ta\ndull\tb\n", {}, ["'\\t' (data.separator=tab)"]),
        ("x.tsv", 'text,label\n"fine",a\ndull,b\n', {}, ["',' (data.separator=comma)"]),
        ("x.csv", 'sep=;\n"text";label\nfine;a\ndull;b\n', {}, []),
        ("x.csv", '"sep=|"\r\ntext|label\r\nfine|a\r\ndull|b\r\n', {}, []),
        ("x.csv", "text;label\nfine;a\ndull;b\n", {"separator": "semicolon"}, []),
        ("x.csv", "text#label\nfine#a\ndull#b\n", {"separator": "#"}, []),
        ("x.csv", "\n\ntext,label\nfine,a\n\ndull,b\n", {}, []),
        ("x.csv", "text,label\rfine,a\rdull,b\r", {}, []),
        ("x.tsv", "text\tlabel\rfine\ta\rdull\tb", {}, []),
        ("x.csv", "text,label\r\nfine,a\r\ndull,b", {}, []),
    ],
)
def test_separators_and_line_ends(
    tmp_path: Path, name: str, content: str, options: dict[str, Any], notes: list[str]
) -> None:
    path, found = tmp_path / name, list[str]()
    path.write_bytes(content.encode())
    assert values(path, found, **options) == GOOD
    assert found == [f"{path}: fields are separated by {note}" for note in notes]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('text,label\nfine,a\n"open,a\nmore,b\nend,a\n', r"x\.csv:3: a quote that this row opens is never closed"),
        (
            'text,label\n"a\nb",a\n"open,a\n"fine",b\n',
            r"csv:4: the quotes of this row, which ends in line 5, do not",
        ),
        ('text,label\n"fine"er,a\n', r"x\.csv:2: the quotes of this row"),
        ("text,label,text\na,b,c\n", "two columns are named 'text': rename or remove one"),
        ("a;b|c\n1;2|3\n", "set data.separator=semicolon or data.separator=pipe"),
        ("\n \n", "has no header"),
        ("text,label\n" + 50 * "x" + ",a\n", r"x\.csv:2: a field is longer than"),
        ('text,label\nfine,a\n"' + 50 * "x\n", r"x\.csv:3: a field is longer than"),
    ],
)
def test_faults_of_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, fault: str) -> None:
    monkeypatch.setattr("fastserve_data.separated.MAX_FIELD_CHARACTERS", 40)
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=fault):
        read(path)


def test_the_line_of_a_row_is_its_first_one(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('sep=,\ntext,label\n"two\nlines",a\nx,b,c\ny,a\n')
    assert [record.where.rpartition(":")[2] for record in read(path)] == ["3", "5", "6"]
    assert read(path)[1].fault == "3 fields, but the header has 2"


def test_columns_without_a_name_are_no_two_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label,,\nfine,a,,\n")
    assert values(path) == [{"text": "fine", "label": "a", "column 3": "", "column 4": ""}]


@given(
    st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\t\0")), st.text("ab")), max_size=9)
)
def test_a_tsv_has_as_many_rows_as_lines(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("tsv") / "x.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, "excel-tab", quoting=csv.QUOTE_NONE, quotechar=None).writerows([("text", "label"), *pairs])
    assert values(path) == [{"text": text, "label": label} for text, label in pairs]
