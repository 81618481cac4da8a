"""A bounded queue and a thread that empties it, so that a slow receiver never holds up a run."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from fastserve_observers.mlflow_batch import MetricBatch, merged

LIMIT = 10_000
"""Parcels that may wait: at four steps a second, forty minutes of training."""

BATCH_S = 1.0
RETRY_S = 5.0


class DeliveryQueue:
    """Delivers parcels in batches, in order; what fails is tried again until the end.

    ``deliver`` takes out of its parcels what has arrived, and raises when something did not. ``warn`` is called
    with the first such error.
    """

    def __init__(self, deliver: Callable[[list[MetricBatch]], None], warn: Callable[[Exception], None]) -> None:
        self._deliver = deliver
        self._warn = warn
        self._waiting: deque[MetricBatch] = deque()
        self._open: list[MetricBatch] = []
        self._changed = threading.Condition()
        self._closing = False
        self._warned = False
        self.lost = 0
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def put(self, parcel: MetricBatch) -> None:
        """Never waits; when the queue is full, figures are lost and counted."""
        with self._changed:
            if len(self._waiting) >= LIMIT and parcel.only_figures:
                self.lost += len(parcel.figures)
                return
            self._waiting.append(parcel)
            self._changed.notify_all()

    def close(self, seconds: float) -> bool:
        """Wait at most so long for what is left; true when all of it was delivered, or its loss was warned of."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)
        return self._warned or not (self._thread.is_alive() or self.lost)

    def _work(self) -> None:
        while True:
            closing = self._take_batch()
            delivered = self._try()
            if closing and not (delivered and self._waiting):
                return
            if not delivered:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY_S)

    def _take_batch(self) -> bool:
        """Take what waits, unless something older is still open; true when nothing more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting or self._open)
            self._changed.wait_for(lambda: self._closing, BATCH_S)
            if not self._open:
                self._open = merged(self._waiting)
                self._waiting.clear()
            return self._closing

    def _try(self) -> bool:
        try:
            self._deliver(self._open)
        except Exception as error:
            if not self._warned:
                self._warned = True
                self._warn(error)
            return False
        self._open = []
        return True
