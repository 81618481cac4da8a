"""What of a text may be shown while it is written: whole characters, and nothing that may become a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve_core.tasks import IncrementalDetokenizer


class StopStringFilter:
    """The text of a ``speller``, which ends before the first of ``stops``."""

    def __init__(self, speller: IncrementalDetokenizer, stops: Sequence[str]) -> None:
        self._speller, self._stops = speller, tuple(one for one in stops if one)
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What is certain to belong to the text now."""
        self._held += self._speller.add(token)
        found = [place for one in self._stops if (place := self._held.find(one)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = self._may_begin()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def flush(self) -> str:
        """What was held back, when nothing comes any more."""
        if self.stopped:
            return ""
        shown, self._held = self._held + self._speller.end(), ""
        return shown

    def _may_begin(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        return max(
            (
                length
                for one in self._stops
                for length in range(1, min(len(one), len(self._held) + 1))
                if self._held.endswith(one[:length])
            ),
            default=0,
        )
