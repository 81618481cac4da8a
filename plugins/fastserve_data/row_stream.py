"""Writes rows to a stream as they come."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from fastserve_core.errors import UnknownNameError
from fastserve_data.writers import SEPARATORS, TableWriter

FORMATS = ("csv", "tsv", "jsonl")


class RowStream:
    """Writes rows, and flushes the stream after each call.

    Args:
        stream: The stream.
        row_format: ``csv``, ``tsv`` or ``jsonl``. The columns of a table are those of the first call.

    Attributes:
        dropped: The number of values of each column that a table does not have, because it came later.

    Raises:
        UnknownNameError: There is no such format.
    """

    def __init__(self, stream: BinaryIO, row_format: str) -> None:
        if row_format not in FORMATS:
            raise UnknownNameError("format of an output", row_format, FORMATS)
        self._text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        self._separator = SEPARATORS.get(f".{row_format}")
        self._table: TableWriter | None = None
        self.dropped: Counter[str] = Counter()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows."""
        if self._separator is None:
            self._text.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        else:
            if self._table is None:
                columns = list(dict.fromkeys(name for row in rows for name in row))
                self._table = TableWriter(self._text, self._separator, columns)
            for row in rows:
                self._table.write(row)
                self.dropped.update(name for name in row.keys() - self._table.columns if row[name] is not None)
        self._text.flush()

    def close(self) -> None:
        """Flush the stream, which stays open."""
        self._text.flush()
        self._text.detach()
