"""Where rows come from: the protocol of data sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions


@dataclass(frozen=True)
class RawRecord:
    """One raw record of a source: where it stands, and either its values or why it cannot be read."""

    where: str
    values: Mapping[str, Any] | None
    fault: str = ""


class DataSource(Protocol):
    """Where rows come from."""

    def fingerprint(self, options: DataOptions, downloads: Path) -> str:
        """A hash of the bytes that the rows come from; quick, and without reading them as rows."""

    def read(self, options: DataOptions, downloads: Path) -> Mapping[str, Iterator[RawRecord]]:
        """The records of each split that the source has (``train``, ``validation``, ``test``)."""
