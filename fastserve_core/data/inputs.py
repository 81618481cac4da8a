"""Inputs of predictions from files, read as training data is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve_core.data.columns import FIRST_RECORDS, match_inputs
from fastserve_core.data.source import RawRecord, Report, file_source, split_records
from fastserve_core.errors import DataError
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.task import Task
from fastserve_core.tasks.values import plain_value

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions


@dataclass(frozen=True)
class InputRow:
    """One record of a file as an input.

    Attributes:
        where: Its location, such as file and line.
        values: Its values by the file's columns.
        row: The task's row; ``None`` if the record cannot be used.
        fault: Why it cannot be used.
    """

    where: str
    values: Row
    row: Row | None
    fault: str = ""


def iterate_inputs(given: Any, option: str, task: Task, options: DataOptions, report: Report) -> Iterator[InputRow]:
    """Read the records of files as inputs of a model, one at a time.

    Args:
        given: A path, a pattern, a folder, or a list of them.
        option: The option that they come from, for error messages.
        task: The model's task, which defines an input.
        options: The ``data`` node of the config: how files are read, and the names of columns.
        report: Called with a message for each guess.

    Raises:
        DataError: A file cannot be read, or lacks a column.
    """
    yield from match_rows(file_source().records(given, option, options, report), task, options, report)


def match_rows(
    records: Iterable[RawRecord], task: Task, options: DataOptions, report: Report, look_ahead: int = FIRST_RECORDS
) -> Iterator[InputRow]:
    """Read records as inputs of a model.

    Args:
        records: The records.
        task: The model's task, which defines an input.
        options: The ``data`` node of the config, with the names of columns.
        report: Called with a message for each guess.
        look_ahead: The number of records that the names of the columns are taken from.

    Raises:
        DataError: A column is missing, or two may be meant.
    """
    columns, records = match_inputs(split_records(records, task), task, options.columns, report, look_ahead)
    for record in records:
        values = {str(name): plain_value(value) for name, value in (record.values or {}).items()}
        row, fault = columns.read_row(record.values) if record.values is not None else ({}, record.fault)
        try:
            if fault:
                raise DataError(fault)
            yield InputRow(record.where, values, task.read_input(row))
        except DataError as error:
            yield InputRow(record.where, values, None, str(error))


def read_inputs(given: Any, option: str, task: Task, options: DataOptions, report: Report) -> Iterator[Row]:
    """Read the rows of files that a model predicts for, one at a time.

    Args:
        given: A path, a pattern, a folder, or a list of them.
        option: The option that they come from, for error messages.
        task: The model's task, which defines its inputs.
        options: The ``data`` node of the config: how files are read, the names of columns, ``max_bad_rows``.
        report: Called with a message for each guess, and for each row that is left out.

    Raises:
        DataError: A file cannot be read, has no inputs, or more rows are unusable than may be left out.
    """
    bad = 0
    for record in iterate_inputs(given, option, task, options, report):
        if record.row is not None:
            yield record.row
            continue
        bad += 1
        message = f"{record.where}: {record.fault}"
        if bad > options.max_bad_rows:
            raise DataError(f"{message}; data.max_bad_rows={bad} leaves out as many rows")
        report(f"left out: {message}")
