"""The verbs of plugins that run in this process, readable by the process that supervises it."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIZE = 4096


class VerbJournal:
    """The running verbs; once it is open, a parent process can read them after this process has crashed."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._lock = threading.Lock()
        self._running: list[tuple[str, int]] = []

    @property
    def is_supervised(self) -> bool:
        """Whether this process belongs to a command, which runs nothing besides, and has a supervisor."""
        return self._memory is not None

    def open(self) -> None:
        """Share the journal with the processes that are forked after this call."""
        self._memory = mmap.mmap(-1, SIZE)

    @contextmanager
    def entry(self, label: str) -> Iterator[None]:
        """Have a verb in the journal while this context lasts.

        Args:
            label: The plugin and the verb, for a message.
        """
        entry = (label, threading.get_ident())
        with self._lock:
            self._running.append(entry)
            self._write()
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(entry)
                self._write()

    def runs_in_other_threads(self) -> bool:
        """Return whether other threads run verbs at the moment."""
        own = threading.get_ident()
        with self._lock:
            return any(thread != own for _, thread in self._running)

    def read(self) -> str:
        """Return the labels of the running verbs, separated by commas, the last one first."""
        return "" if self._memory is None else self._memory[:].split(b"\0", 1)[0].decode(errors="replace")

    def clear(self) -> None:
        """Forget the running verbs, because the process ends as it should."""
        with self._lock:
            self._running.clear()
            self._write()

    def _write(self) -> None:
        if self._memory is not None:
            labels = ", ".join(dict.fromkeys(label for label, _ in reversed(self._running)))
            text = labels.encode()[: SIZE - 1]
            self._memory[: len(text) + 1] = text + b"\0"


JOURNAL = VerbJournal()
"""The journal of this process; one for all its parts, because a process ends for all of them."""
