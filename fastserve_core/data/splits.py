"""Validates the rows of all splits, and writes the splits into a folder."""

from __future__ import annotations

import random
import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_core.data.cutting import cut_splits
from fastserve_core.data.rows import OFFSETS, SUFFIX, RowWriter, encode_row, write_groups
from fastserve_core.data.source import RawRecord, Report
from fastserve_core.data.validation import BadRows, ValidatedRows, Validator
from fastserve_core.errors import DataError, wrap_write_errors
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.task import Task

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions

SPLITS = ("train", "validation", "test")


def validate_and_split(
    records: Mapping[str, Iterable[RawRecord]], options: DataOptions, task: Task, folder: Path, report: Report
) -> tuple[list[str], list[str]]:
    """Write every split into a folder; missing splits are cut from train, after exact duplicates were removed.

    Args:
        records: The records by split.
        options: The ``data`` node of the config.
        task: The task.
        folder: The folder, in which nothing is left after an error.
        report: Called with a message for each guess, and for rows that splits have in common.

    Returns:
        The labels, and a message for each bad row that was left out.

    Raises:
        DataError: The rows cannot be used.
    """
    bad = BadRows(options.max_bad_rows)
    with _scratch_folder(folder) as scratch:
        validator = Validator(options, task, bad, scratch, report)
        train = validator.store(records.get("train", ()), "train")
        if not train.rows:
            raise DataError(_describe_empty("train", bad) if bad.count else "the training data has no rows")
        labels = _collect_labels(train.rows, task, bad)
        given = [split for split in SPLITS[1:] if split in records]
        others = {split: validator.store(records[split], split, labels) for split in given}
        if bad.count > options.max_bad_rows:
            raise DataError(f"{bad.message()}\ndata.max_bad_rows={bad.count} would leave them out")
        for split, rows in others.items():
            if not rows.rows:
                raise DataError(_describe_empty(split, bad))
            _report_overlap(train, rows, split, options, report)
        made = task.make_splits({split: read.rows for split, read in {"train": train, **others}.items()}, report)
        if made is not None:
            _write_made(made, folder, task, options)
            return labels, bad.messages
        for split, numbers in cut_splits(train, options, [name for name in SPLITS[1:] if name not in given]).items():
            _copy(train, numbers, folder, split, options)
        for split, rows in others.items():
            _move(rows, split, scratch, folder, options)
    return labels, bad.messages


def _collect_labels(rows: Sequence[Row], task: Task, bad: BadRows) -> list[str]:
    """Return the task's labels; an error also lists the bad rows, because their absence may be its cause."""
    try:
        return task.collect_labels(rows)
    except DataError as error:
        if not bad.count:
            raise
        raise DataError(f"{error}\n{bad.message()}") from error


@contextmanager
def _scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder for the rows as they are read, and remove it; that of a killed process is removed too."""
    scratch = folder / "checked"
    shutil.rmtree(scratch, ignore_errors=True)
    with wrap_write_errors("the data", folder):
        scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _describe_empty(split: str, bad: BadRows) -> str:
    advice = "mend them" if split == "train" else f"mend them, or leave data.{split} out to have one cut from train"
    if not bad.count:
        return f"the {split} split has no rows: give data.{split} some, or leave it out to have one cut from train"
    return f"no row of the {split} split is left: {advice}\n{bad.message()}"


def _write_made(made: Mapping[str, Iterable[Row]], folder: Path, task: Task, options: DataOptions) -> None:
    """Write the rows of the splits that a task made; of train at most ``data.max_rows`` random ones."""
    if (column := "group" if options.group is not None else "time" if options.time is not None else None) is not None:
        raise DataError(f"data.{column} does not go with the task {task.name}, which makes the splits: set it to null")
    for split, rows in made.items():
        lines = [encode_row(row) for row in rows]
        if not lines:
            raise DataError(f"the {split} split has no rows")
        if split == "train" and options.max_rows is not None:
            lines = random.Random(options.split_seed).sample(lines, min(options.max_rows, len(lines)))
        with RowWriter(folder, split) as writer:
            for line in lines:
                writer.add(line)


def _report_overlap(
    train: ValidatedRows, other: ValidatedRows, split: str, options: DataOptions, report: Report
) -> None:
    """Report rows of a given split that the training data also has."""
    total, theirs = len(other.rows), set(other.hashes)
    common = {value for value in train.hashes if value in theirs}
    if copies := sum(value in common for value in other.hashes):
        report(f"{copies} of {total} {split} rows are in train too")
    if options.group is not None:
        known = set(train.positions)
        if shared := sum(position in known for position in other.positions):
            report(f"{shared} of {total} {split} rows have a value of '{options.group}' that train has too")
    elif options.time is not None:
        last = max(train.positions)
        if early := sum(position <= last for position in other.positions):
            report(f"{early} of {total} {split} rows are not later than the last one of train")


def _copy(train: ValidatedRows, numbers: Sequence[int], folder: Path, split: str, options: DataOptions) -> None:
    with RowWriter(folder, split) as writer:
        for number in numbers:
            writer.add(train.rows.line(number))
    if options.group is not None:
        write_groups(folder, split, array("Q", (train.positions[number] for number in numbers)))


def _move(rows: ValidatedRows, split: str, scratch: Path, folder: Path, options: DataOptions) -> None:
    with wrap_write_errors(f"the {split} split", folder):
        for suffix in (SUFFIX, OFFSETS):
            (scratch / split).with_suffix(suffix).rename((folder / split).with_suffix(suffix))
    if options.group is not None and rows.positions:
        write_groups(folder, split, rows.positions)
