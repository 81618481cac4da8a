"""Inputs of predictions from files, read as training data is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve_core.data.columns import FIRST_RECORDS, ColumnMap, match_inputs
from fastserve_core.data.source import RawRecord, Report, file_source, split_records
from fastserve_core.errors import DataError
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.task import Task
from fastserve_core.tasks.values import plain_value

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions


@dataclass(frozen=True)
class InputRow:
    """One record of a file as an input, or several that a task joins.

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
    records: Iterable[RawRecord], task: Task, options: DataOptions, report: Report, is_endless: bool = False
) -> Iterator[InputRow]:
    """Read records as inputs of a model; those that the task joins are read to their end first.

    Args:
        records: The records.
        task: The model's task, which defines an input.
        options: The ``data`` node of the config, with the names of columns.
        report: Called with a message for each guess.
        is_endless: Whether the records are answered as they come: the first one has the names of the columns.

    Raises:
        DataError: A column is missing, two may be meant, or endless records cannot be joined.
    """
    look_ahead = 1 if is_endless else FIRST_RECORDS
    columns, records = match_inputs(split_records(records, task), task, options.columns, report, look_ahead)
    if not task.joined_columns or not set(task.joined_columns) <= set(columns.names):
        yield from (_read_input(record, columns, task) for record in records)
    elif is_endless:
        raise DataError(
            f"rows of {' and '.join(task.joined_columns)} are joined when a file ends, for which --follow does not "
            f"wait: give rows of {', '.join(column.name for column in task.request_columns if column.required)}"
        )
    else:
        yield from _join(records, columns, task, report)


def _read_input(record: RawRecord, columns: ColumnMap, task: Task) -> InputRow:
    row, fault = columns.read_row(record.values) if record.values is not None else ({}, record.fault)
    try:
        if fault:
            raise DataError(fault)
        return InputRow(record.where, _values(record), task.read_input(row))
    except DataError as error:
        return InputRow(record.where, _values(record), None, str(error))


def _join(records: Iterable[RawRecord], columns: ColumnMap, task: Task, report: Report) -> Iterator[InputRow]:
    """Yield the inputs that a task makes of all records, and then those that cannot be used."""
    bad: list[InputRow] = []

    def read_rows() -> Iterator[Row]:
        for record in records:
            row, fault = columns.read_row(record.values) if record.values is not None else ({}, record.fault)
            if found := fault or task.check(row):
                bad.append(InputRow(record.where, _values(record), None, found))
            else:
                yield row

    key = task.joined_columns[0]
    for row in task.join_rows(read_rows(), report):
        values = {str(columns.names.get(name, name)): value for name, value in row.items()}
        yield InputRow(f"{key} '{row[key]}'", values, {key: row[key], **task.read_input(row)})
    yield from bad


def _values(record: RawRecord) -> Row:
    return {str(name): plain_value(value) for name, value in (record.values or {}).items()}


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
