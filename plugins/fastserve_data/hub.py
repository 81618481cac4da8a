"""A hub's data set by name: the only source that asks the network, because its name was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import stable_hash
from fastserve_core.config import parse_options
from fastserve_core.data import SPLITS, RawRecord
from fastserve_core.errors import InvalidData, MissingPackage

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

from dataclasses import dataclass


@dataclass
class HubOptions:
    """``config`` is the data set's own configuration, ``revision`` a commit: give one to be reproducible."""

    config: str | None = None
    revision: str | None = None


class Hub:
    """``data.name`` is the data set's name, or a local folder that ``datasets`` can load."""

    def fingerprint(self, options: DataOptions, downloads: Path) -> str:
        loaded = self._load(options)
        return stable_hash({split: str(getattr(rows, "_fingerprint", "")) for split, rows in loaded.items()})

    def read(self, options: DataOptions, downloads: Path) -> Mapping[str, Iterator[RawRecord]]:
        loaded = self._load(options)
        if "train" not in loaded:
            raise InvalidData(f"the data set '{options.name}' has no train split, only {', '.join(loaded)}")
        return {split: _records(options.name, split, loaded[split]) for split in SPLITS if split in loaded}

    def _load(self, options: DataOptions) -> Mapping[str, Any]:
        try:
            import datasets
        except ImportError as error:
            raise MissingPackage("a hub's data set needs datasets: pip install 'fastserve-core[data]'") from error
        chosen = parse_options(HubOptions, options.options, "data.options")
        try:
            loaded: Mapping[str, Any] = datasets.load_dataset(options.name, chosen.config, revision=chosen.revision)
        except Exception as error:
            raise InvalidData(f"the data set '{options.name}' could not be loaded: {error}") from error
        return loaded


def _records(name: str, split: str, rows: Any) -> Iterator[RawRecord]:
    """Class numbers become their names, where the data set has them."""
    names = {column: feature.names for column, feature in rows.features.items() if hasattr(feature, "names")}
    for number, values in enumerate(rows, 1):
        named = {column: names[column][values[column]] for column in names if isinstance(values[column], int)}
        yield RawRecord(f"{name} {split} row {number}", {**values, **named})
