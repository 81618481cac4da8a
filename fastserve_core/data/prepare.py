"""The user's data as checked splits, made once and kept by the hash of its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import Store, result_name
from fastserve_core.config.nodes import Columns, DataOptions
from fastserve_core.data.dataset import Prepared, describe, load
from fastserve_core.data.rows import Rows
from fastserve_core.data.source import DataSource, Record
from fastserve_core.data.splits import SPLITS, check_and_cut
from fastserve_core.entry_points import provide
from fastserve_core.tasks.task import Row, Task

FORMAT = 2
"""How splits are cut and written; part of the fingerprint, so that older ones are not taken for these."""


def prepare(options: DataOptions, task: Task, store: Store, say: Callable[[str], None]) -> Prepared:
    """The checked splits for a task; read again only when the bytes or the options changed.

    Raises ``BadData`` with file, line and reason for what cannot be used.
    """
    source: DataSource = provide("fastserve.data", options.source)()
    bytes_hash = source.fingerprint(options, store.downloads)
    shown = {name: value for name, value in asdict(options).items() if name not in SPLITS}
    fingerprint = stable_hash([FORMAT, bytes_hash, shown, task.name])
    with store.claim(result_name("data", options.source, fingerprint), say) as claim:
        if not claim.published:
            _write(claim.partial, source.read(options, store.downloads), options, task, fingerprint)
            claim.publish()
    return load(claim.final)


def prepare_rows(splits: Mapping[str, Sequence[Row]], options: DataOptions, task: Task, store: Store) -> Prepared:
    """The same for rows that are already in memory."""
    fingerprint = stable_hash([FORMAT, splits, options.split_seed, task.name])
    with store.claim(result_name("data", "memory", fingerprint)) as claim:
        if not claim.published:
            records = {
                split: (Record(f"{split} row {number}", row) for number, row in enumerate(rows))
                for split, rows in splits.items()
            }
            _write(claim.partial, records, options, task, fingerprint)
            claim.publish()
    return load(claim.final)


def _write(
    folder: Path, records: Mapping[str, Iterable[Record]], options: DataOptions, task: Task, fingerprint: str
) -> None:
    labels, bad = check_and_cut(records, options, task, folder)
    counts = {split: len(Rows(folder, split)) for split in SPLITS}
    describe(folder, Prepared(folder, fingerprint, counts, tuple(labels), tuple(bad)))


__all__ = ["SPLITS", "Columns", "DataOptions", "Prepared", "describe", "load", "prepare", "prepare_rows"]
