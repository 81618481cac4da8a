"""How a task would read the first records of a file: its columns, the rows that it can use, and the evidence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastserve_core.data.columns import ColumnMap, match_columns
from fastserve_core.data.source import RawRecord, split_records
from fastserve_core.errors import AmbiguousColumnError, DataError, MissingColumnError, UserError
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.load import load_task
from fastserve_core.tasks.task import Task
from fastserve_core.tasks.values import is_missing, plain_value

MIN_USABLE = 0.5
"""The share of rows that a task has to be able to use."""
SENTENCE_ENDS = tuple(".!。！")
SHOWN_LABELS, SHOWN_FAULTS = 10, 3
MAX_CANDIDATES = 5
"""The number of columns that are tried if several may be meant."""


@dataclass
class Reading:
    """One way to read a file.

    Attributes:
        task: The task, with the options of the reading.
        options: These options, as far as they differ from the defaults.
        columns: The data's names of the task's columns.
        guessed: The task's columns that were found by their values.
        rows: The rows that can be used.
        faults: The reasons why others cannot.
        decisions: The columns that were chosen among several.
    """

    task: Task
    options: Mapping[str, Any]
    columns: Mapping[str, str | Sequence[str]]
    guessed: frozenset[str]
    rows: list[Row] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    decisions: Mapping[str, str] = field(default_factory=dict)

    @property
    def rank(self) -> tuple[int, int, int]:
        """The order of readings: by the numbers of all columns, of those found by their names, of the task's own."""
        own = sum(name == found for name, found in self.columns.items())
        return len(self.columns), -len(self.guessed), own

    def describe(self) -> list[tuple[str, str]]:
        """Return the evidence as pairs of a heading and a text."""
        lines = [("column", self._describe_column(name, own)) for name, own in self.columns.items()]
        labels = Counter(label for row in self.rows for label in self.task.row_labels(row))
        if labels:
            shown = ", ".join(f"{label} {count}" for label, count in labels.most_common(SHOWN_LABELS))
            lines.append(
                ("labels", f"{len(labels)} in these rows: {shown}{', …' if len(labels) > SHOWN_LABELS else ''}")
            )
        lines.append(("rows", self._describe_rows()))
        lines += [("bad row", fault) for fault in self.faults[:SHOWN_FAULTS]]
        return lines

    def _describe_column(self, name: str, own: str | Sequence[str]) -> str:
        how = "by its values" if name in self.guessed else "by its name"
        shown = f"'{own}'" if isinstance(own, str) else ", ".join(own)
        return name if name == own else f"{name} is read from {shown}, {how}"

    def _describe_rows(self) -> str:
        seen = Counter(json.dumps(row, sort_keys=True, default=str) for row in self.rows)
        inputs: dict[str, set[str]] = {}
        for row in self.rows:
            given = {name: value for name, value in row.items() if name not in self.task.label_columns}
            target = {name: row.get(name) for name in self.task.label_columns}
            inputs.setdefault(json.dumps(given, sort_keys=True, default=str), set()).add(
                json.dumps(target, default=str)
            )
        total = len(self.rows) + len(self.faults)
        text = f"{total:,} read, {len(self.faults) / total:.1%} cannot be used"
        text += f", {1 - len(seen) / max(len(self.rows), 1):.1%} are duplicates"
        conflicts = sum(len(targets) > 1 for targets in inputs.values())
        return text + (f", {conflicts} inputs have different labels" if conflicts else "")


def check_header(records: Sequence[RawRecord]) -> None:
    """Check that the names of columns are not the first row of a table without a header.

    Raises:
        DataError: A name ends as a sentence does, or is one of the values of its column.
    """
    first = next((record for record in records if record.values is not None), records[0])
    for name in map(str, first.values or ()):
        values = [(record.values or {}).get(name) for record in records]
        if name.strip()[-1:] in SENTENCE_ENDS or name in values:
            raise DataError(
                f"{first.where}: the first line is a row and not the names of columns, as '{name}' "
                "shows: add a line with names, such as text and label"
            )


def read_as(task_name: str, records: Sequence[RawRecord], chosen: Mapping[str, Any]) -> Reading:
    """Read records as rows of a task, with those of its options that can use most of them.

    Args:
        task_name: The name of the task.
        records: The first records of a file.
        chosen: The data's names that the user gave, by the task's.

    Raises:
        AmbiguousColumnError: Several columns may be one of the task's.
        DataError: The task cannot use the records.
    """
    found: list[Reading] = []
    for options in load_task(task_name, {}).readings:
        task = load_task(task_name, options)
        rows = list(split_records(records, task))
        columns, guessed = _find_columns(task, rows, chosen)
        reading = Reading(task, options, columns.names, guessed)
        for record in rows:
            fault = _read_row(reading, columns, record)
            if fault:
                reading.faults.append(f"{record.where}: {fault}")
        found.append(reading)
    best = max(found, key=lambda reading: len(reading.rows))
    if len(best.rows) < MIN_USABLE * (len(best.rows) + len(best.faults)):
        raise DataError(f"most rows cannot be used: {best.faults[0]}")
    best.task.collect_labels(best.rows)  # which raises for those that cannot be learnt
    return best


def _read_row(reading: Reading, columns: ColumnMap, record: RawRecord) -> str | None:
    """Add a record to the rows of a reading; return why it cannot be used."""
    if record.values is None:
        return record.fault
    row, fault = columns.read_row(record.values)
    fault = fault or reading.task.check(row)
    if not fault:
        reading.rows.append(row)
    return fault


def _find_columns(
    task: Task, records: Sequence[RawRecord], chosen: Mapping[str, Any]
) -> tuple[ColumnMap, frozenset[str]]:
    """Find the task's columns by their names, and those that are missing by their values."""
    names = dict(chosen)
    guessed: set[str] = set()
    while True:
        try:
            columns, _ = match_columns(records, task, names, lambda _: None)
        except MissingColumnError as error:
            if names.get(error.column) is not None:
                raise
            names[error.column] = _guess_column(task, records, names, error)
            guessed.add(error.column)
            continue
        return columns, frozenset(guessed)


def _guess_column(task: Task, records: Sequence[RawRecord], names: Mapping[str, Any], error: MissingColumnError) -> str:
    """Return the only column whose values look like those of a missing one."""
    column = next(column for column in task.columns if column.name == error.column)
    known = dict.fromkeys(str(name) for record in records for name in record.values or ())
    taken = {*names.values(), *(column.name for column in task.columns)}
    candidates = []
    for name in known:
        values = [plain_value((record.values or {}).get(name)) for record in records]
        present = [value for value in values if not is_missing(value) and value != ""]
        if name not in taken and present and task.recognizes_column(column, present):
            candidates.append(name)
    if len(candidates) > 1:
        listed = ", ".join(f"'{name}'" for name in candidates)
        message = f"no column '{column.name}', and by their values {listed} may be meant"
        raise AmbiguousColumnError(column.name, candidates, f"{message}: data.columns.{column.name}=NAME selects one")
    if not candidates:
        raise error
    return candidates[0]


def find_readings(
    tasks: Sequence[str], records: Sequence[RawRecord], chosen: Mapping[str, Any]
) -> tuple[list[Reading], dict[str, UserError]]:
    """Return the readings of all tasks that can use records, the best ones first, and the others' reasons.

    Args:
        tasks: The names of the tasks. The only one is read even if the rows are hardly meant for it.
        records: The first records of a file.
        chosen: The data's names that the user gave, by the task's.
    """
    readings, reasons = list[Reading](), dict[str, UserError]()
    for name in tasks:
        for reading in _read_all(name, records, chosen, {}, reasons):
            unlikely = reading.task.why_unlikely(reading.rows) if len(tasks) > 1 else None
            if unlikely is None:
                readings.append(reading)
            else:
                reasons[name] = DataError(unlikely)
    readings.sort(key=lambda reading: reading.rank, reverse=True)
    return readings, reasons


def _read_all(
    name: str,
    records: Sequence[RawRecord],
    chosen: Mapping[str, Any],
    decisions: Mapping[str, str],
    reasons: dict[str, UserError],
) -> Iterator[Reading]:
    """Yield the readings as a task, one for each choice of its columns if several fit; or note the reason."""
    try:
        yield replace(read_as(name, records, {**chosen, **decisions}), decisions=decisions)
    except AmbiguousColumnError as error:
        for candidate in error.candidates[:MAX_CANDIDATES]:
            yield from _read_all(name, records, chosen, {**decisions, error.column: candidate}, reasons)
    except UserError as error:
        reasons[name] = error
