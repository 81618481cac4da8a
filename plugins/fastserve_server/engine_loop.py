"""Base class of the loops that run engine workers in threads for one event loop."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from fastserve_core.tasks import Row
from fastserve_server.options import ServingOptions
from fastserve_server.requests import Answers, UnavailableError, public_error, resolve_future

SMOOTHING = 0.1
MAX_RETRY_AFTER_S = 60
SHUTTING_DOWN = "the server is shutting down"
WORKER_FAILED = "an engine worker failed; see the server's log"


class Closable(Protocol):
    """An engine worker: anything that a thread creates, uses and closes."""

    def close(self) -> None:
        """Release the worker's resources."""


W = TypeVar("W", bound=Closable)


class EngineLoop(ABC, Generic[W]):
    """Runs engine workers in threads; requests arrive from the event loop that called ``start``.

    If one worker fails, the loop ends: ``failure`` is set, open requests fail with ``EngineError`` and later ones with
    ``UnavailableError``.

    Args:
        options: Limits and scheduling options of the server.
        num_workers: Number of threads, each with its own worker.
        make_worker: Creates and warms a worker; called in the thread that will use it.
        on_batch: Receives the number of items and the seconds of every engine pass.
    """

    def __init__(
        self,
        options: ServingOptions,
        num_workers: int,
        make_worker: Callable[[], W],
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._options, self._num_workers, self._make_worker = options, num_workers, make_worker
        self._on_batch = on_batch
        self._lock = threading.Lock()
        self._load_lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self._seconds_per_item = 0.0
        self.failure = ""
        """Reason why the loop cannot answer any more; empty while its workers run."""

    @property
    @abstractmethod
    def queue_depth(self) -> int:
        """Number of accepted items that no worker has started."""

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Number of accepted requests that have no complete answer yet."""

    @abstractmethod
    def predict(self, rows: Sequence[Row], options: Mapping[str, Any]) -> asyncio.Future[Answers]:
        """Accept a request for complete answers.

        Args:
            rows: The inputs, as ``Task.read_input`` returns them.
            options: Task options of this request.

        Returns:
            A future of one answer per row. Cancel it to withdraw the request.

        Raises:
            QueueFullError: Too many items are waiting.
            UnavailableError: The loop is stopping or a worker has failed.
        """

    async def start(self) -> None:
        """Start the threads and wait until every worker is warm.

        Raises:
            BaseException: The error of the first worker that could not be created.
        """
        self._loop = asyncio.get_running_loop()
        warm = [self._loop.create_future() for _ in range(self._num_workers)]
        self._threads = [threading.Thread(target=self._run_worker, args=(future,), daemon=True) for future in warm]
        for thread in self._threads:
            thread.start()
        for error in await asyncio.gather(*warm, return_exceptions=True):
            if error is not None:
                raise error

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Reject waiting requests, let running passes end and join the threads.

        Args:
            timeout_s: Seconds to wait for all threads together.
        """
        with self._lock:
            self._stopping = True
            self._wake_all()
        self._reject_waiting(UnavailableError(SHUTTING_DOWN))
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))

    # -- for subclasses ------------------------------------------------------------------------------

    @abstractmethod
    def _work(self, worker: W) -> None:
        """Run passes until ``_ended``; called in a worker's thread."""

    @abstractmethod
    def _wake_all(self) -> None:
        """Wake every sleeping worker; called with the lock held."""

    @abstractmethod
    def _reject_all(self, error: Exception) -> None:
        """Fail every open request; called on the event loop."""

    def _reject_waiting(self, error: Exception) -> None:
        """Fail the requests that a running pass will not complete; called on the event loop."""
        self._reject_all(error)

    @property
    def _ended(self) -> bool:
        return self._stopping or bool(self.failure)

    def _check_running(self) -> None:
        if self._ended:
            raise UnavailableError(self.failure or SHUTTING_DOWN)

    def _record_pass(self, size: int, seconds: float) -> None:
        self._on_batch(size, seconds)
        self._seconds_per_item += SMOOTHING * (seconds / size - self._seconds_per_item)

    def _retry_after(self, items: float) -> int:
        """Whole seconds until so many items have passed through one worker."""
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(items * self._seconds_per_item)))

    def _call_on_loop(self, function: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # the event loop has ended, so no caller is waiting
            self._loop.call_soon_threadsafe(function, *args)

    def _run_worker(self, warm: asyncio.Future[None]) -> None:
        try:
            with self._load_lock:  # transformers sets process-wide defaults while it loads
                worker = self._make_worker()
        except BaseException as error:
            self._call_on_loop(resolve_future, warm, error)
            return
        self._call_on_loop(resolve_future, warm, None)
        try:
            self._work(worker)
        except BaseException as error:  # some libraries' errors derive from it
            self._fail_workers(error)
        finally:
            worker.close()

    def _fail_workers(self, error: BaseException) -> None:
        """End all workers after one of them failed."""
        public = public_error(error, WORKER_FAILED)
        with self._lock:
            self.failure = str(public)
            self._wake_all()
        self._call_on_loop(self._reject_all, public)
