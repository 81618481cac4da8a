"""Excel workbooks."""

from __future__ import annotations

import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fastserve_core.errors import DataError
from fastserve_data.tests.reading import read, values

EMPTY_STYLES = '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"/>'

openpyxl = pytest.importorskip("openpyxl")


def write(path: Path, *sheets: list[list[Any]]) -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets, 1):
        sheet = book.create_sheet(f"sheet {number}")
        for row in rows:
            sheet.append(row)
    book.save(path)


def test_the_first_sheet_is_read(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.xlsx", list[str]()
    day = datetime(2026, 3, 1)
    rows = [[], ["text", "label", "day"], ["fine", 1, day], [], ["dull", None, "#N/A"], ["x", 2, day, "extra"], [None]]
    write(path, rows, [["other"]])
    good, empty, wide = read(path, notes)
    assert good.values == {"text": "fine", "label": 1, "day": day}
    assert empty.values == {"text": "dull", "label": None, "day": None}
    assert (wide.where, wide.fault) == (f"{path} row 6", "4 fields, but the header has 3")
    assert notes == [f"{path}: only the first of 2 sheets is read, 'sheet 1'"]


@pytest.mark.filterwarnings("error")
def test_a_workbook_without_styles_gives_no_warning(tmp_path: Path) -> None:
    write(tmp_path / "styled.xlsx", [["text"], ["fine"]])
    with zipfile.ZipFile(tmp_path / "styled.xlsx") as old, zipfile.ZipFile(tmp_path / "x.xlsx", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) if name != "xl/styles.xml" else EMPTY_STYLES)
    assert values(tmp_path / "x.xlsx") == [{"text": "fine"}]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "x.xlsx", [["text", "text"], ["a", "b"]])
    with pytest.raises(DataError, match="two columns are named 'text'"):
        values(tmp_path / "x.xlsx")


def test_files_that_are_no_workbooks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    path.write_bytes(b"text,label\n")
    with pytest.raises(DataError, match="is not a valid Excel workbook"):
        read(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("xl/workbook.xml", "<workbook>")
    with pytest.raises(DataError, match="is not a valid Excel workbook"):
        read(path)
