"""Prepared data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.files import read_json, write_json
from fastserve_core.data.rows import Rows


@dataclass(frozen=True)
class Dataset:
    """Validated splits in a folder of the store, one JSONL file per split.

    Attributes:
        folder: The folder.
        fingerprint: The hash of the data and of the options that decide the splits.
        counts: The number of rows by split.
        labels: The labels of the training rows.
        bad_rows: A message for each invalid row.
        notes: Guesses that were made when the data was read, and signs of faults.
        is_timed: Whether the splits were cut by time, so that folds would mix past and future.
    """

    folder: Path
    fingerprint: str
    counts: Mapping[str, int]
    labels: tuple[str, ...]
    bad_rows: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_timed: bool = False

    def rows(self, split: str) -> Rows:
        """Return the rows of a split; each row is read from disk on access."""
        return Rows(self.folder, split)


def load_dataset(folder: Path) -> Dataset:
    """Load the splits of a folder."""
    record: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in read_json(folder / "data.json").items()
    }
    return Dataset(folder, **record)


def write_description(folder: Path, data: Dataset) -> None:
    """Write the description of a folder's splits, which ``load_dataset`` reads."""
    write_json(
        folder / "data.json",
        {field.name: getattr(data, field.name) for field in fields(data) if field.name != "folder"},
    )
