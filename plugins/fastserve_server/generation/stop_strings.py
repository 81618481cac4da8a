"""Text that may be sent while a sequence is generated: complete characters, and no beginning of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve_core.tasks import IncrementalDetokenizer


class StopStringFilter:
    """Decodes tokens and ends the text before the first stop string.

    Args:
        detokenizer: Decodes the tokens.
        stops: The stop strings; empty ones are ignored.
    """

    def __init__(self, detokenizer: IncrementalDetokenizer, stops: Sequence[str]) -> None:
        self._detokenizer, self._stops = detokenizer, tuple(stop for stop in stops if stop)
        self._buffer = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Add a token and return the characters that are certain to belong to the text."""
        self._buffer += self._detokenizer.add(token)
        indices = [index for stop in self._stops if (index := self._buffer.find(stop)) >= 0]
        if indices:
            self.stopped = True
            text, self._buffer = self._buffer[: min(indices)], ""
            return text
        split = len(self._buffer) - self._partial_match_length()
        text, self._buffer = self._buffer[:split], self._buffer[split:]
        return text

    def flush(self) -> str:
        """Return the characters held back, after the last token."""
        if self.stopped:
            return ""
        text, self._buffer = self._buffer + self._detokenizer.end(), ""
        return text

    def _partial_match_length(self) -> int:
        """Length of the longest end of the buffer that is the beginning of a stop string."""
        return max(
            (
                length
                for stop in self._stops
                for length in range(1, min(len(stop), len(self._buffer) + 1))
                if self._buffer.endswith(stop[:length])
            ),
            default=0,
        )
