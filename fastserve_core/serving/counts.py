"""The counts of a prediction for rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastserve_core.data.inputs import InputRow
from fastserve_core.events import Event, WarningRaised

MAX_MESSAGES = 5
"""The number of bad rows that are reported one by one."""


@dataclass
class PredictionCounts:
    """The counts of a prediction.

    Attributes:
        rows: The number of rows.
        bad_rows: The number of rows without an answer.
        truncated: The number of rows that were longer than the model reads.
        messages: The reasons for the first bad rows.
    """

    rows: int = 0
    bad_rows: int = 0
    truncated: int = 0
    messages: list[str] = field(default_factory=list)

    def count(self, window: Sequence[InputRow], answers: Sequence[Mapping[str, Any]]) -> None:
        """Count the rows of a window with their answers."""
        faults = [f"{one.where}: {one.fault}" for one in window if one.row is None]
        self.rows += len(window)
        self.bad_rows += len(faults)
        self.truncated += sum("truncated" in answer for answer in answers)
        self.messages = [*self.messages, *faults][:MAX_MESSAGES]

    def add(self, other: PredictionCounts) -> None:
        """Add the counts of other rows."""
        self.rows += other.rows
        self.bad_rows += other.bad_rows
        self.truncated += other.truncated
        self.messages = [*self.messages, *other.messages][:MAX_MESSAGES]

    def report(self, emit: Callable[[Event], None]) -> None:
        """Emit warnings of bad rows with the first reasons, and of truncated ones."""
        if self.bad_rows:
            reasons = "".join(f"\n  {message}" for message in self.messages)
            more = "\n  …" if self.bad_rows > len(self.messages) else ""
            emit(WarningRaised(f"{self.bad_rows} of {self.rows} rows have no answer:{reasons}{more}"))
        self.report_truncated(emit)

    def report_truncated(self, emit: Callable[[Event], None]) -> None:
        """Emit a warning if rows were truncated."""
        if self.truncated:
            message = f"{self.truncated} of {self.rows} texts were truncated to the model's maximum length"
            emit(WarningRaised(message))
