"""The user's data: its options, and the splits made of it once, kept by the hash of its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastserve_core.errors import BadOption
from fastserve_core.files import read_json, write_json
from fastserve_core.hashing import stable_hash
from fastserve_core.registry import provide
from fastserve_core.rows import Rows
from fastserve_core.splits import SPLITS, check_and_cut
from fastserve_core.store import Store, result_name
from fastserve_core.task import DataSource, Record, Row, Task

FORMAT = 2
"""How splits are cut and written; part of the fingerprint, so that older ones are not taken for these."""


@dataclass
class Columns:
    """Which column of the user's file holds what."""

    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    tokens: str = "tokens"
    tags: str = "tags"


@dataclass
class DataOptions:
    """The ``data`` node of the config."""

    source: str = "files"
    name: str = ""
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    columns: Columns = field(default_factory=Columns)
    max_bad_rows: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    split_seed: int = 0
    max_rows: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 0.5:
                raise BadOption(f"data.{name} must lie between 0 and 0.5, not {getattr(self, name)}")
        if self.max_bad_rows < 0:
            raise BadOption(f"data.max_bad_rows must be 0 or more, not {self.max_bad_rows}")
        if self.max_rows is not None and self.max_rows < 10:
            raise BadOption(f"data.max_rows must be 10 or more, not {self.max_rows}")


@dataclass(frozen=True)
class Prepared:
    """Checked splits in a folder of the store: one JSONL file a split, and what is known about them."""

    folder: Path
    fingerprint: str
    counts: Mapping[str, int]
    labels: tuple[str, ...]
    bad_rows: tuple[str, ...] = ()

    def rows(self, split: str) -> Rows:
        """The rows of a split as a sequence; each is read from the disk when it is asked for."""
        return Rows(self.folder, split)


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


def load(folder: Path) -> Prepared:
    record = read_json(folder / "data.json")
    record["labels"], record["bad_rows"] = tuple(record["labels"]), tuple(record["bad_rows"])
    return Prepared(folder, **record)


def describe(folder: Path, data: Prepared) -> None:
    """Write what is known of the splits that lie in a folder."""
    about = {name: getattr(data, name) for name in ("fingerprint", "counts", "labels", "bad_rows")}
    write_json(folder / "data.json", about)


def _write(
    folder: Path, records: Mapping[str, Iterable[Record]], options: DataOptions, task: Task, fingerprint: str
) -> None:
    labels, bad = check_and_cut(records, options, task, folder)
    counts = {split: len(Rows(folder, split)) for split in SPLITS}
    describe(folder, Prepared(folder, fingerprint, counts, tuple(labels), tuple(bad)))


__all__ = ["SPLITS", "Columns", "DataOptions", "Prepared", "describe", "load", "prepare", "prepare_rows"]
