"""The columns of the data that are those of the task: by the options, by the same name, or by a usual one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from fastserve_core.data.source import RawRecord
from fastserve_core.errors import AmbiguousColumnError, DataError, MissingColumnError, did_you_mean
from fastserve_core.tasks.declarations import Column
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.task import Task
from fastserve_core.tasks.values import plain_value

FIRST_RECORDS = 100
"""The number of records that the names of the columns are taken from; JSON objects may lack some."""


@dataclass(frozen=True)
class ColumnMap:
    """The data's name of each of a task's columns.

    Attributes:
        columns: The task's columns.
        names: The data's names by the task's; a list if there are several; a column that the data lacks is left out.
        known: The names of all columns of the first records.
    """

    columns: Sequence[Column]
    names: Mapping[str, str | Sequence[str]]
    known: Sequence[str]

    def read_row(self, values: Mapping[str, Any]) -> tuple[Row, str | None]:
        """Return the task's columns of a record, and the reason if a required one is missing."""
        row = {}
        for name, own in self.names.items():
            if isinstance(own, str):
                if own in values:
                    row[name] = plain_value(values[own])
            else:
                row[name] = {part: plain_value(values.get(part)) for part in own}
        for column in self.columns:
            if column.required and column.name not in row:
                return row, f"no column '{self.names.get(column.name, column.name)}'"
        return row, None


def match_columns(
    records: Iterable[RawRecord],
    task: Task,
    chosen: Mapping[str, Any],
    report: Callable[[str], None],
) -> tuple[ColumnMap, Iterator[RawRecord]]:
    """Find the task's columns in the first records.

    Args:
        records: The records.
        task: The task.
        chosen: The data's names that the user gave, by the task's; a list if there are several.
        report: Called with a message for each guess.

    Returns:
        The map, and all records.

    Raises:
        DataError: A required column is missing, two columns may be meant, or the task has no chosen column.
    """
    _check_chosen(chosen, [column.name for column in task.columns])
    first, records = _peek(records)
    columns = _select(first, task, chosen)
    if first and columns[0] is not task.columns[0]:
        report(f"the rows are read by {', '.join(column.name for column in columns if column.required)}")
    return _match(first, columns, chosen, report), records


def find_columns(
    records: Iterable[RawRecord],
    columns: Sequence[Column],
    chosen: Mapping[str, Any],
    report: Callable[[str], None],
) -> tuple[ColumnMap, Iterator[RawRecord]]:
    """Find columns that are not those of a task, such as those of documents, in the first records.

    Args:
        records: The records.
        columns: The columns.
        chosen: The data's names that the user gave, by the columns'.
        report: Called with a message for each guess.

    Returns:
        The map, and all records.

    Raises:
        DataError: A required column is missing, two columns may be meant, or a chosen column is none of these.
    """
    _check_chosen(chosen, [column.name for column in columns])
    first, records = _peek(records)
    return _match(first, columns, chosen, report), records


def match_inputs(
    records: Iterable[RawRecord],
    task: Task,
    chosen: Mapping[str, Any],
    report: Callable[[str], None],
    look_ahead: int = FIRST_RECORDS,
) -> tuple[ColumnMap, Iterator[RawRecord]]:
    """Find the columns of a prediction's inputs, which are the task's columns without labels, or a request's.

    Args:
        records: The records.
        task: The task.
        chosen: The data's names that the user gave, by the task's.
        report: Called with a message for each guess.
        look_ahead: The number of records that the names of the columns are taken from.

    Returns:
        The map, and all records.

    Raises:
        DataError: A required column is missing, or two columns may be meant.
    """
    _check_chosen(chosen, [column.name for column in (*task.columns, *task.request_columns)])
    first, records = _peek(records, look_ahead)
    columns = _select(first, task, chosen)
    try:
        return _match(first, [column for column in columns if not column.is_label], chosen, report), records
    except DataError:
        return _match(first, task.request_columns, chosen, report), records


def _check_chosen(chosen: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [name for name, own in chosen.items() if own is not None and name not in known]
    if unknown:
        raise DataError(f"data.columns.{unknown[0]}: the task has no such column{did_you_mean(unknown[0], known)}")


def _peek(records: Iterable[RawRecord], count: int = FIRST_RECORDS) -> tuple[list[RawRecord], Iterator[RawRecord]]:
    """Return the first records, as far as the first one that can be read, and all records."""
    iterator = iter(records)
    first = list(islice(iterator, count))
    while first and first[-1].values is None and (following := next(iterator, None)) is not None:
        first.append(following)
    return first, chain(first, iterator)


def _select(first: Sequence[RawRecord], task: Task, chosen: Mapping[str, Any]) -> Sequence[Column]:
    """Return the columns that the task reads from records such as these."""
    given = [name for name, own in chosen.items() if own is not None]
    return task.select_columns([*given, *_names(first)])


def _names(records: Iterable[RawRecord]) -> list[str]:
    return list(dict.fromkeys(str(name) for record in records for name in record.values or ()))


def _match(
    first: Sequence[RawRecord],
    columns: Sequence[Column],
    chosen: Mapping[str, Any],
    report: Callable[[str], None],
) -> ColumnMap:
    known = _names(first)
    where = next((record.where for record in first if record.values is not None), "")
    names = _Matcher(known, chosen, where).match(columns) if known else {}
    for task_name, name in names.items():
        if isinstance(name, str) and name != (chosen.get(task_name) or task_name):
            report(f"column '{name}' is read as {task_name} (data.columns.{task_name})")
    return ColumnMap(columns, names, known)


@dataclass(frozen=True)
class _Matcher:
    known: Sequence[str]
    chosen: Mapping[str, Any]
    where: str

    def match(self, columns: Sequence[Column]) -> dict[str, str | Sequence[str]]:
        names: dict[str, str | Sequence[str]] = {}
        has_guessed = False
        free = self._unclaimed(columns)
        for column in sorted(columns, key=lambda column: not column.required):
            if isinstance(self.chosen.get(column.name), list):
                names[column.name] = self._find_several(column, self.chosen[column.name])
                continue
            name = self._find(column, free, may_guess=column.required or column.is_label or has_guessed)
            if name is None:
                continue
            if name in names.values():
                other = next(key for key, value in names.items() if value == name)
                raise DataError(
                    f"{self.where}: '{name}' cannot be both {other} and {column.name}: "
                    f"data.columns.{column.name}=NAME chooses another column"
                )
            names[column.name] = name
            has_guessed |= name != (self.chosen.get(column.name) or column.name)
        return names

    def _unclaimed(self, columns: Sequence[Column]) -> list[str]:
        """Return the columns that no option and no name of the task claims, which may be guessed."""
        given = (name if isinstance(name, list) else [name] for name in self.chosen.values() if name)
        claimed = {*chain.from_iterable(given), *(column.name for column in columns)}
        return [name for name in self.known if name not in claimed]

    def _find_several(self, column: Column, given: Sequence[str]) -> Sequence[str]:
        if not column.takes_several:
            raise DataError(
                f"data.columns.{column.name} must be one name, not a list: the task reads one column. A name with "
                "brackets is put in quotes"
            )
        for name in given:
            if name not in self.known:
                hint = did_you_mean(name, self.known)
                raise DataError(f"{self.where}: no column '{name}'{hint}; data.columns.{column.name} names it")
        return given

    def _find(self, column: Column, free: Sequence[str], may_guess: bool) -> str | None:
        given = self.chosen.get(column.name)
        name = given or column.name
        if name in self.known:
            return name
        usual = {_normalize(usual) for usual in (column.name, *column.usual_names)}
        fitting = [other for other in free if _normalize(other) in usual] if given is None and may_guess else []
        if len(fitting) > 1:
            listed = ", ".join(f"'{other}'" for other in fitting)
            raise AmbiguousColumnError(
                column.name,
                fitting,
                f"{self.where}: no column '{name}', and {listed} may be meant: "
                f"data.columns.{column.name}=NAME selects one",
            )
        if fitting:
            return fitting[0]
        if column.required or given is not None:
            several = f", and data.columns.{column.name}=[NAME,NAME] several" if column.takes_several else ""
            raise MissingColumnError(
                column.name,
                f"{self.where}: no column '{name}'{did_you_mean(name, self.known)}; "
                f"data.columns.{column.name}=NAME selects one{several}",
            )
        return None


def _normalize(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")
