"""Stack of sleeping worker threads."""

from __future__ import annotations

import threading


class SleepingWorkers:
    """Wakes the workers that slept last, because their model is still in the CPU's caches.

    Args:
        lock: Guards the stack; the caller of every method holds it.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._conditions: list[threading.Condition] = []

    def sleep(self, timeout_s: float | None) -> None:
        """Wait until another thread calls ``wake``, or for ``timeout_s`` seconds."""
        condition = threading.Condition(self._lock)
        self._conditions.append(condition)
        condition.wait(timeout_s)
        if condition in self._conditions:  # timed out
            self._conditions.remove(condition)

    def wake(self, count: int) -> None:
        """Wake up to ``count`` workers."""
        for _ in range(min(count, len(self._conditions))):
            self._conditions.pop().notify()
