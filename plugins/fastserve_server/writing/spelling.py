"""What of a text may be shown while it is written: whole characters, and nothing that may become a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Spelling:
    """``spell`` takes one token after another (``stepping.Writer``); the text ends before the first of ``stops``."""

    def __init__(self, spell: Callable[[int], str | None], stops: Sequence[str]) -> None:
        self._spell, self._stops = spell, tuple(one for one in stops if one)
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What is certain to belong to the text now."""
        self._held += self._spell(token) or ""
        found = [place for one in self._stops if (place := self._held.find(one)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = self._may_begin()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def rest(self) -> str:
        """What was held back, when nothing comes any more."""
        shown, self._held = self._held, ""
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
