"""Checks rows one by one and stores them; of a row, only some twenty bytes stay in memory."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.data.columns import ColumnMap, match_columns
from fastserve_core.data.positions import BadRowError, PositionColumn, hash_bytes
from fastserve_core.data.rows import Rows, RowWriter, encode_row
from fastserve_core.data.source import RawRecord, Report, split_records
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.task import Task

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions

MAX_SHOWN = 10


@dataclass
class BadRows:
    """The rows that cannot be used: all are counted, as many as may be left out are kept with their reasons."""

    allowed: int
    count: int = 0
    messages: list[str] = field(default_factory=list)

    def add(self, where: str, reason: str) -> None:
        """Count a row that cannot be used; the first ones are reported with their place and reason."""
        self.count += 1
        if len(self.messages) < max(self.allowed, MAX_SHOWN):
            self.messages.append(f"{where}: {reason}")

    def message(self) -> str:
        """Return the report of all rows that cannot be used."""
        more = f"\n  … and {self.count - MAX_SHOWN} more" if self.count > MAX_SHOWN else ""
        return f"{self.count} bad rows:\n" + "\n".join(f"  {one}" for one in self.messages[:MAX_SHOWN]) + more


@dataclass
class ValidatedRows:
    """The usable rows of one split.

    Attributes:
        rows: The lines on the disk.
        hashes: The hash of each row.
        strata: The index of each row's stratum.
        names: The names of the strata.
        positions: The hash of each row's group if ``data.group`` names a column, or its time if ``data.time`` does.
    """

    rows: Rows
    hashes: array[int]
    strata: array[int]
    names: list[str]
    positions: array[Any]


@dataclass(frozen=True)
class Validator:
    """Checks the rows of every split with the same options.

    Attributes:
        options: The ``data`` node of the config.
        task: The task.
        bad: Collects the rows that cannot be used.
        scratch: The folder that usable rows are stored in.
        report: Called with a message for each guess.
    """

    options: DataOptions
    task: Task
    bad: BadRows
    scratch: Path
    report: Report

    def store(self, records: Iterable[RawRecord], split: str, labels: Iterable[str] = ()) -> ValidatedRows:
        """Store the usable rows of a split.

        Args:
            records: The records of the split.
            split: The name of the split.
            labels: The labels that are known, if others are to be refused.

        Raises:
            DataError: A column is missing.
        """
        records = split_records(records, self.task)
        columns, records = match_columns(records, self.task, self.options.columns, self.report)
        position_column = PositionColumn.of(self.options)
        if position_column is not None and position_column.name not in columns.known:
            if split == "train" and columns.known:
                position_column.raise_missing(columns.known)
            position_column = None  # a given split needs none
        known_labels = set(labels)
        unknown: Counter[str] = Counter()
        hashes, strata, names = array("Q"), array("I"), dict[str, int]()
        positions: array[Any] = array("Q" if self.options.group is not None else "d")
        with RowWriter(self.scratch, split) as writer:
            for record in records:
                try:
                    row = self._read_row(record, columns)
                    self._check_labels(row, split, known_labels, unknown)
                    line = _encode(row)
                    if position_column is not None:
                        positions.append(position_column.read(record.values or {}))
                except BadRowError as error:
                    self.bad.add(record.where, str(error))
                    continue
                writer.add(line)
                hashes.append(hash_bytes(line))
                strata.append(names.setdefault(self.task.stratify_key(row), len(names)))
        if unknown:
            self._report_unknown(split, unknown)
        return ValidatedRows(Rows(self.scratch, split), hashes, strata, list(names), positions)

    def _read_row(self, record: RawRecord, columns: ColumnMap) -> Row:
        if record.values is None:
            raise BadRowError(record.fault)
        try:
            row, reason = columns.read_row(record.values)
        except RecursionError as error:
            raise BadRowError("its values are nested too deeply") from error
        if reason := reason or self.task.check(row):
            raise BadRowError(reason)
        return row

    def _check_labels(self, row: Row, split: str, labels: set[str], unknown: Counter[str]) -> None:
        """Refuse a row with a label that train lacks, or count it, if the task scores such rows as errors."""
        strangers = sorted(self.task.row_labels(row) - labels) if labels else []
        if strangers and self.task.unknown_labels == "refused":
            raise BadRowError(f"the label '{strangers[0]}' of the {split} split is not in train")
        unknown.update(strangers[:1])

    def _report_unknown(self, split: str, unknown: Counter[str]) -> None:
        shown = ", ".join(f"'{label}'" for label in sorted(unknown)[:MAX_SHOWN])
        self.report(
            f"{unknown.total()} rows of the {split} split have labels that are not in train, and count as errors: "
            + shown
        )


def _encode(row: Row) -> bytes:
    try:
        return encode_row(row)
    except UnicodeEncodeError as error:
        raise BadRowError("a text holds half of a surrogate pair, which UTF-8 cannot write") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRowError(f"a value cannot be stored as JSON: {error}") from error
