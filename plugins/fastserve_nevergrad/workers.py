"""Several trials at once: a thread for each, which waits for the processes that do the work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
RemoteExecutor = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Workers(Generic[Result]):
    """Runs what it is given: at once and here where it is one, else beside the others.

    The threads are daemons, for an interrupted run must not wait for them; ``stop`` tells them to end.
    ``remote_executor``
    has a trial's training done on another machine.
    """

    def __init__(self, count: int, remote_executor: RemoteExecutor | None = None) -> None:
        self.count, self.remote_executor = count, remote_executor
        self.stop = threading.Event()

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
                if self.count == 1 and not isinstance(error, Exception):
                    raise

        if self.count == 1:
            run()
        else:
            threading.Thread(target=run, name="trial", daemon=True).start()
        return future
