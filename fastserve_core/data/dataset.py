"""A prepared data set: its folder, its splits, its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastserve_core.artifacts.files import read_json, write_json
from fastserve_core.data.rows import Rows


@dataclass(frozen=True)
class Dataset:
    """Checked splits in a folder of the store: one JSONL file a split, and what is known about them."""

    folder: Path
    fingerprint: str
    counts: Mapping[str, int]
    labels: tuple[str, ...]
    bad_rows: tuple[str, ...] = ()

    def rows(self, split: str) -> Rows:
        """The rows of a split as a sequence; each is read from the disk when it is asked for."""
        return Rows(self.folder, split)


def load_dataset(folder: Path) -> Dataset:
    record = read_json(folder / "data.json")
    record["labels"], record["bad_rows"] = tuple(record["labels"]), tuple(record["bad_rows"])
    return Dataset(folder, **record)


def describe_dataset(folder: Path, data: Dataset) -> None:
    """Write what is known of the splits that lie in a folder."""
    about = {name: getattr(data, name) for name in ("fingerprint", "counts", "labels", "bad_rows")}
    write_json(folder / "data.json", about)
