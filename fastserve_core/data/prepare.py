"""Prepares the user's data as validated splits, stored by the hash of its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.config.nodes import DataOptions
from fastserve_core.data.dataset import Dataset, load_dataset, write_description
from fastserve_core.data.rows import Rows
from fastserve_core.data.source import DataSource, RawRecord
from fastserve_core.data.splits import SPLITS, validate_and_split
from fastserve_core.entry_points import load_entry_point
from fastserve_core.tasks.task import Row, Task

FORMAT_VERSION = 2
"""The version of the split and its file format; part of the fingerprint."""


def prepare_dataset(options: DataOptions, task: Task, store: Store, report: Callable[[str], None]) -> Dataset:
    """Prepare the splits for a task; they are reused until the bytes or the options change.

    Args:
        options: The ``data`` node of the config.
        task: The task.
        store: The store.
        report: Called with a message before waiting for another process.

    Raises:
        DataError: The data cannot be used; the message has file, line and reason.
        UnknownNameError: There is no such data source.
    """
    source: DataSource = load_entry_point("fastserve.data", options.source)()
    bytes_hash = source.fingerprint(options, store.downloads_dir)
    other_options = {name: value for name, value in asdict(options).items() if name not in SPLITS}
    fingerprint = stable_hash([FORMAT_VERSION, bytes_hash, other_options, task.name])
    with store.claim(result_id("data", options.source, fingerprint), report) as claim:
        if not claim.is_published:
            _write(claim.partial, source.read(options, store.downloads_dir), options, task, fingerprint)
            claim.publish()
    return load_dataset(claim.final)


def prepare_rows(splits: Mapping[str, Sequence[Row]], options: DataOptions, task: Task, store: Store) -> Dataset:
    """Prepare splits from rows in memory.

    Args:
        splits: The rows by split; missing splits are split off the training rows.
        options: The ``data`` node of the config.
        task: The task.
        store: The store.

    Raises:
        DataError: The rows cannot be used.
    """
    fingerprint = stable_hash([FORMAT_VERSION, splits, options.split_seed, task.name])
    with store.claim(result_id("data", "memory", fingerprint)) as claim:
        if not claim.is_published:
            records = {
                split: (RawRecord(f"{split} row {number}", row) for number, row in enumerate(rows))
                for split, rows in splits.items()
            }
            _write(claim.partial, records, options, task, fingerprint)
            claim.publish()
    return load_dataset(claim.final)


def _write(
    folder: Path, records: Mapping[str, Iterable[RawRecord]], options: DataOptions, task: Task, fingerprint: str
) -> None:
    labels, bad_rows = validate_and_split(records, options, task, folder)
    counts = {split: len(Rows(folder, split)) for split in SPLITS}
    write_description(folder, Dataset(folder, fingerprint, counts, tuple(labels), tuple(bad_rows)))
