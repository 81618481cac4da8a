"""The protocol of data sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions


@dataclass(frozen=True)
class RawRecord:
    """One record of a data source.

    Attributes:
        where: Its location, such as file and line.
        values: Its values by column; ``None`` if it cannot be read.
        fault: Why it cannot be read.
    """

    where: str
    values: Mapping[str, Any] | None
    fault: str = ""


class DataSource(Protocol):
    """A data source; an entry point of the group ``fastserve.data`` provides its class."""

    def fingerprint(self, options: DataOptions, downloads: Path) -> str:
        """Hash the bytes of the data, without parsing them.

        Args:
            options: The ``data`` node of the config.
            downloads: The folder of downloaded files.
        """

    def read(self, options: DataOptions, downloads: Path) -> Mapping[str, Iterator[RawRecord]]:
        """Read the records of each split that the source has.

        Args:
            options: The ``data`` node of the config.
            downloads: The folder of downloaded files.

        Returns:
            The records by split: ``train``, ``validation``, ``test``.

        Raises:
            DataError: The data cannot be read.
        """
