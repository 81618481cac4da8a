"""Reads the first sheet of an Excel workbook."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.data import RawRecord
from fastserve_core.errors import DataError, MissingPackageError
from fastserve_data.headers import name_columns

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions


def read_workbook(path: Path, options: DataOptions, report: Callable[[str], None], suffix: str) -> Iterator[RawRecord]:
    """Read the rows of the first sheet; its first row that is not empty names the columns.

    Args:
        path: The file.
        options: The options of the data, unused here.
        report: Called with a message if there are more sheets.
        suffix: The suffix, unused here.

    Raises:
        DataError: The file is not a workbook, or has two columns of one name.
        MissingPackageError: openpyxl is not installed.
    """
    header: list[str] | None = None
    for number, row in _read_cells(path, report):
        if header is None:
            header = name_columns(["" if value is None else str(value) for value in row], str(path))
        elif len(row) > len(header):
            yield RawRecord(f"{path} row {number}", None, f"{len(row)} fields, but the header has {len(header)}")
        else:
            values = row + [None] * (len(header) - len(row))
            yield RawRecord(f"{path} row {number}", dict(zip(header, values, strict=True)))


def _read_cells(path: Path, report: Callable[[str], None]) -> Iterator[tuple[int, list[Any]]]:
    """Yield the rows that are not empty with their numbers, without the empty cells at their ends."""
    try:
        import openpyxl
    except ImportError as error:
        raise MissingPackageError("Excel files need openpyxl: pip install 'fastserve-core[excel]'") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # of styles and pictures, which are not read
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheet = book.worksheets[0]
        if len(book.worksheets) > 1:
            report(f"{path}: only the first of {len(book.worksheets)} sheets is read, '{sheet.title}'")
        for number, cells in enumerate(sheet.iter_rows(), 1):
            row = [None if cell.data_type == "e" else cell.value for cell in cells]
            while row and row[-1] is None:
                row.pop()
            if row:
                yield number, row
        book.close()
    except Exception as error:  # openpyxl raises whatever a damaged file leads to
        raise DataError(f"{path} is not a valid Excel workbook: {error}") from error
