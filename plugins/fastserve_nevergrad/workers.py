"""A pool of threads for trials, each of which waits for the processes that do the work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
RemoteExecutor = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Runs a training, described by its request, on another machine and returns its result."""


class WorkerPool(Generic[Result]):
    """Runs tasks in threads, or in the calling thread if there is one worker only.

    The threads are daemons, because an interrupted run must not wait for them.

    Args:
        count: The number of concurrent tasks.
        remote_executor: Runs the trainings of trials on other machines, or ``None``.

    Attributes:
        stop: Is set at the end of the study, so that running trainings end.
    """

    def __init__(self, count: int, remote_executor: RemoteExecutor | None = None) -> None:
        self.count, self.remote_executor = count, remote_executor
        self.stop = threading.Event()

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Run a task and return the future of its result or exception."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(task())
            except BaseException as error:
                future.set_exception(error)
                if self.count == 1 and not isinstance(error, Exception):
                    raise

        if self.count == 1:
            run()
        else:
            threading.Thread(target=run, name="trial", daemon=True).start()
        return future
