"""Reading a file as the source of files does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastserve_core.config import DataOptions
from fastserve_core.data import RawRecord
from fastserve_data.files import Files


def read(path: Path, notes: list[str] | None = None, **options: Any) -> list[RawRecord]:
    report = (notes if notes is not None else []).append
    return list(Files().read(DataOptions(train=str(path), **options), path.parent, report)["train"])


def values(path: Path, notes: list[str] | None = None, **options: Any) -> list[Any]:
    return [record.values for record in read(path, notes, **options)]
