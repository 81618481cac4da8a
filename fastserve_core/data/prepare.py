"""The user's data as checked splits, made once and kept by the hash of its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.config.nodes import DataOptions
from fastserve_core.data.dataset import Dataset, describe_dataset, load_dataset
from fastserve_core.data.rows import Rows
from fastserve_core.data.source import DataSource, RawRecord
from fastserve_core.data.splits import SPLITS, validate_and_split
from fastserve_core.entry_points import load_entry_point
from fastserve_core.tasks.task import Row, Task

FORMAT = 2
"""How splits are cut and written; part of the fingerprint, so that older ones are not taken for these."""


def prepare_dataset(options: DataOptions, task: Task, store: Store, say: Callable[[str], None]) -> Dataset:
    """The checked splits for a task; read again only when the bytes or the options changed.

    Raises ``InvalidData`` with file, line and reason for what cannot be used.
    """
    source: DataSource = load_entry_point("fastserve.data", options.source)()
    bytes_hash = source.fingerprint(options, store.downloads_dir)
    shown = {name: value for name, value in asdict(options).items() if name not in SPLITS}
    fingerprint = stable_hash([FORMAT, bytes_hash, shown, task.name])
    with store.claim(result_id("data", options.source, fingerprint), say) as claim:
        if not claim.published:
            _write(claim.partial, source.read(options, store.downloads_dir), options, task, fingerprint)
            claim.publish()
    return load_dataset(claim.final)


def prepare_rows(splits: Mapping[str, Sequence[Row]], options: DataOptions, task: Task, store: Store) -> Dataset:
    """The same for rows that are already in memory."""
    fingerprint = stable_hash([FORMAT, splits, options.split_seed, task.name])
    with store.claim(result_id("data", "memory", fingerprint)) as claim:
        if not claim.published:
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
    labels, bad = validate_and_split(records, options, task, folder)
    counts = {split: len(Rows(folder, split)) for split in SPLITS}
    describe_dataset(folder, Dataset(folder, fingerprint, counts, tuple(labels), tuple(bad)))
