"""The column of ``data.group`` or ``data.time``, by which rows are cut into splits, as a number a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NoReturn

from fastserve_core.errors import DataError, did_you_mean
from fastserve_core.tasks.values import is_missing, plain_value

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions


class BadRowError(Exception):
    """A row cannot be used; the message is the reason."""


@dataclass
class PositionColumn:
    """The column that decides a row's split.

    Attributes:
        name: The data's name of the column.
        option: The option that named it.
        has_numbers: Whether the times read so far were numbers; ``None`` before the first.
    """

    name: str
    option: str
    has_numbers: bool | None = None

    @classmethod
    def of(cls, options: DataOptions) -> PositionColumn | None:
        """Return the column that the options name, if any."""
        if options.group is not None:
            return cls(options.group, "data.group")
        return cls(options.time, "data.time") if options.time is not None else None

    def raise_missing(self, known: Iterable[str]) -> NoReturn:
        """Raise ``DataError``, because the data has no such column among those that are known."""
        raise DataError(f"{self.option}: no column '{self.name}'{did_you_mean(self.name, known)}")

    def read(self, values: Mapping[str, Any]) -> float:
        """Return the hash of the row's group, or its time in seconds or in the data's own unit.

        Raises:
            BadRowError: The row has none, or it is not a time.
        """
        value = values.get(self.name)
        if is_missing(value) or value == "":
            raise BadRowError(f"'{self.name}' is empty, and {self.option} needs it")
        value = plain_value(value)
        if self.option == "data.group":
            return hash_bytes(str(value).encode("utf-8", "surrogatepass"))
        seconds, is_number = self._read_time(value)
        if self.has_numbers not in (None, is_number):
            raise BadRowError(
                f"'{self.name}' is {value!r}, while the rows before have {'dates' if is_number else 'numbers'}"
            )
        self.has_numbers = is_number
        return seconds

    def _read_time(self, value: Any) -> tuple[float, bool]:
        """Return a time, and whether it was a number; a time without a zone counts as UTC."""
        try:
            if isinstance(value, str):
                value = _parse_time(value.strip())
            if isinstance(value, date) and not isinstance(value, datetime):
                value = datetime.combine(value, time())
            if isinstance(value, datetime):
                return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp(), False
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                return float(value), True
        except (ValueError, OverflowError):
            pass
        raise BadRowError(f"'{self.name}' is {value!r}, not a time: write it as 2026-03-01T12:00:00 or as a number")


def _parse_time(text: str) -> float | datetime:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text)


def hash_bytes(value: bytes) -> int:
    """Return 64 bits of a hash; never 0, which marks a free slot in the table of ``deduplicate``."""
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "little") or 1
