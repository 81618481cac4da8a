"""Prepares the user's data as validated splits, stored by the hash of everything that decides them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.config.nodes import DataOptions
from fastserve_core.data.dataset import Dataset, load_dataset, write_description
from fastserve_core.data.rows import Rows, encode_row
from fastserve_core.data.source import GROUP, DataSource, RawRecord
from fastserve_core.data.splits import SPLITS, validate_and_split
from fastserve_core.entry_points import entry_point_version, load_entry_point
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.load import TASK_GROUP
from fastserve_core.tasks.task import Task
from fastserve_core.tasks.values import plain_value

FORMAT_VERSION = 3
"""The version of the split and its file format; part of the fingerprint."""


def prepare_dataset(options: DataOptions, task: Task, store: Store, report: Callable[[str], None]) -> Dataset:
    """Prepare the splits for a task; they are reused until the bytes or the options change.

    Args:
        options: The ``data`` node of the config.
        task: The task.
        store: The store.
        report: Called with a message before waiting for another process, and for each guess about the data.

    Raises:
        DataError: The data cannot be used; the message has file, line and reason.
        UnknownNameError: There is no such data source.
    """
    source: DataSource = load_entry_point(GROUP, options.source)()
    bytes_hash = [source.fingerprint(options, store.downloads_dir), entry_point_version(GROUP, options.source)]
    fingerprint = _fingerprint(bytes_hash, options, task)
    with store.claim(result_id("data", options.source, fingerprint), report) as claim:
        if claim.is_published:
            return _load_again(claim.final, report)
        notes = _Notes(report)
        records = source.read(options, store.downloads_dir, notes.add)
        _write(claim.partial, records, options, task, fingerprint, notes)
        claim.publish()
    return load_dataset(claim.final)


def prepare_rows(
    splits: Mapping[str, Sequence[Row]],
    options: DataOptions,
    task: Task,
    store: Store,
    report: Callable[[str], None] = lambda _: None,
) -> Dataset:
    """Prepare splits from rows in memory.

    Args:
        splits: The rows by split; missing splits are split off the training rows.
        options: The ``data`` node of the config.
        task: The task.
        store: The store.
        report: Called with a message for each guess about the data.

    Raises:
        DataError: The rows cannot be used.
    """
    fingerprint = _fingerprint({split: _hash_rows(rows) for split, rows in splits.items()}, options, task)
    with store.claim(result_id("data", "memory", fingerprint)) as claim:
        if claim.is_published:
            return _load_again(claim.final, report)
        records = {split: _iterate_records(split, rows) for split, rows in splits.items()}
        _write(claim.partial, records, options, task, fingerprint, _Notes(report))
        claim.publish()
    return load_dataset(claim.final)


def _iterate_records(split: str, rows: Sequence[Row]) -> Iterator[RawRecord]:
    return (RawRecord(f"{split} row {number}", row) for number, row in enumerate(rows))


class _Notes:
    """Reports each message once, and keeps it for those who read the prepared data again.

    Args:
        report: Called with each message.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """Report a message, unless it was reported before."""
        if message not in self.messages:
            self.messages.append(message)
            self._report(message)


def _fingerprint(data: Any, options: DataOptions, task: Task) -> str:
    """Return the hash of everything that decides the prepared rows."""
    data_options = {name: value for name, value in asdict(options).items() if name not in SPLITS}
    task_options = {name: value for name, value in vars(task.options).items() if name not in task.not_in_rows}
    task_options |= task.hash_files()
    return stable_hash(
        [FORMAT_VERSION, data, data_options, task.name, task_options, entry_point_version(TASK_GROUP, task.name)]
    )


def _hash_rows(rows: Sequence[Row]) -> str:
    """Hash rows by their values; those of different types differ unless they are stored alike."""
    digest = hashlib.sha256()
    for row in rows:
        try:
            digest.update(encode_row(plain_value(row)))
        except (TypeError, ValueError, RecursionError):
            digest.update(repr(row).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _write(
    folder: Path,
    records: Mapping[str, Iterable[RawRecord]],
    options: DataOptions,
    task: Task,
    fingerprint: str,
    notes: _Notes,
) -> None:
    labels, bad_rows = validate_and_split(records, options, task, folder, notes.add)
    counts = {split: len(Rows(folder, split)) for split in SPLITS}
    is_timed = options.time is not None
    data = Dataset(folder, fingerprint, counts, tuple(labels), tuple(bad_rows), tuple(notes.messages), is_timed)
    write_description(folder, data)


def _load_again(folder: Path, report: Callable[[str], None]) -> Dataset:
    """Load prepared data, and report again the guesses that were made when it was read."""
    data = load_dataset(folder)
    for note in data.notes:
        report(note)
    return data
