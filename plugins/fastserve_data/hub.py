"""Data source of the Hugging Face hub, the only one that accesses the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import stable_hash
from fastserve_core.config import parse_options
from fastserve_core.data import SPLITS, RawRecord, Report
from fastserve_core.errors import DataError, MissingPackageError
from fastserve_data.labels import name_label

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions


@dataclass
class HubOptions:
    """Options of ``data=hub``.

    Attributes:
        config: Name of the dataset's configuration.
        revision: Commit or tag; set it for reproducibility.
    """

    config: str | None = None
    revision: str | None = None


class Hub:
    """Data source of a dataset by name, or of a local folder that ``datasets`` can load."""

    def fingerprint(self, options: DataOptions, downloads: Path) -> str:
        """Return a hash of the fingerprints that ``datasets`` computes.

        Args:
            options: Options of the data; ``name`` is the dataset.
            downloads: Folder of downloads, unused here.

        Raises:
            DataError: The dataset could not be loaded.
            MissingPackageError: ``datasets`` is not installed.
        """
        loaded = self._load(options)
        return stable_hash({split: str(getattr(rows, "_fingerprint", "")) for split, rows in loaded.items()})

    def read(self, options: DataOptions, downloads: Path, report: Report) -> Mapping[str, Iterator[RawRecord]]:
        """Return the records of each split.

        Args:
            options: Options of the data; ``name`` is the dataset.
            downloads: Folder of downloads, unused here.
            report: Takes messages, of which there are none.

        Raises:
            DataError: The dataset could not be loaded, or has no split ``train``.
            MissingPackageError: ``datasets`` is not installed.
        """
        loaded = self._load(options)
        if "train" not in loaded:
            raise DataError(f"the dataset '{options.name}' has no train split, only {', '.join(loaded)}")
        return {split: iterate_records(options.name, split, loaded[split]) for split in SPLITS if split in loaded}

    def _load(self, options: DataOptions) -> Mapping[str, Any]:
        try:
            import datasets
        except ImportError as error:
            raise MissingPackageError("data=hub needs datasets: pip install 'fastserve-core[data]'") from error
        hub_options = parse_options(HubOptions, options.options, "data.options")
        try:
            loaded: Mapping[str, Any] = datasets.load_dataset(
                options.name, hub_options.config, revision=hub_options.revision
            )
        except Exception as error:
            raise DataError(f"the dataset '{options.name}' could not be loaded: {error}") from error
        return loaded


def iterate_records(name: str, split: str, rows: Any) -> Iterator[RawRecord]:
    """Yield the records of a split; class indices are replaced by their names."""
    names = {column: _label_names(feature) for column, feature in rows.features.items()}
    named = [column for column, labels in names.items() if labels]
    for number, values in enumerate(rows, 1):
        labels = {column: name_label(values[column], names[column]) for column in named}
        yield RawRecord(f"{name} {split} row {number}", {**values, **labels})


def _label_names(feature: Any) -> list[str]:
    """Return the names of the labels of a column, or of the elements of its lists."""
    return list(getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None) or ())
