"""Inputs of predictions from files, read as training data is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastserve_core.data.columns import match_inputs
from fastserve_core.data.source import Report, file_source, split_records
from fastserve_core.errors import DataError
from fastserve_core.tasks.task import Row, Task

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions


def read_inputs(given: Any, option: str, task: Task, options: DataOptions, report: Report) -> Iterator[Row]:
    """Read the rows of files that a model predicts for, one at a time.

    Args:
        given: A path, a pattern, a folder, or a list of them.
        option: The option that they come from, for error messages.
        task: The model's task, which says what an input is.
        options: The ``data`` node of the config: how files are read, the names of columns, ``max_bad_rows``.
        report: Called with a message for each guess, and for each row that is left out.

    Raises:
        DataError: A file cannot be read, has no inputs, or more rows are unusable than may be left out.
    """
    records = file_source().records(given, option, options, report)
    columns, records = match_inputs(split_records(records, task), task, options.columns, report)
    bad = 0
    for record in records:
        row, reason = columns.read_row(record.values) if record.values is not None else ({}, record.fault)
        try:
            if reason:
                raise DataError(reason)
            row = task.read_input(row)
        except DataError as error:
            bad += 1
            message = f"{record.where}: {error}"
            if bad > options.max_bad_rows:
                raise DataError(f"{message}; data.max_bad_rows={bad} leaves out as many rows") from error
            report(f"left out: {message}")
            continue
        yield row
