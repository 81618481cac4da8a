"""The micro-batcher: requests of an event loop, answered in batches by engine workers in threads.

Whichever worker is free encodes what arrived, takes the inputs that fit together, and hands their answers back to
the loop. Cancelling a request's future takes back what has not begun.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

from fastserve_core.tasks import Encoded
from fastserve_server.length_batching import BatchCostModel, LengthQueue, round_up
from fastserve_server.options import ServingOptions
from fastserve_server.requests import (
    Answers,
    InferenceWorker,
    PendingInput,
    PendingRequest,
    QueueFull,
    Unavailable,
    public_error,
    resolve_future,
)

SMOOTHING = 0.1
LONGEST_RETRY = 60
MIN_SHARED_S = 0.001
"""What takes one worker no longer than that is not shared: another would have to be woken, and both want the lock of
Python."""
ENCODE_AHEAD_BATCHES = 4
"""How many full batches of arrivals are encoded at a time: enough to choose from, soon enough to begin."""


class Batcher:
    """Owns the workers' threads; each makes its own worker with ``make_worker``.

    ``check`` may refuse what a request's inputs were encoded to, with its options; ``passed`` is told the size
    and the seconds of every engine pass.
    """

    def __init__(
        self,
        options: ServingOptions,
        workers: int,
        make_worker: Callable[[], InferenceWorker],
        check: Callable[[Sequence[Encoded], Mapping[str, Any]], None] = lambda encoded, options: None,
        passed: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._options, self._make_worker, self._check, self._passed = options, make_worker, check, passed
        self._workers, self._enough = workers, ENCODE_AHEAD_BATCHES * options.max_batch
        self._lock = threading.Lock()
        self._asleep: list[threading.Condition] = []
        self._making = threading.Lock()
        self._waiting: LengthQueue[PendingInput] = LengthQueue()
        self._cost = BatchCostModel()
        self._fresh: list[PendingRequest] = []
        self._arriving: deque[PendingRequest] = deque()
        self._open: set[PendingRequest] = set()
        self._threads: list[threading.Thread] = []
        self._accepted = self._begun = self._idle = 0
        self._stopping = self._encoding = False
        self._seconds_per_input = 0.0

    @property
    def queue_depth(self) -> int:
        """Inputs that were accepted and have not begun."""
        return self._accepted - self._begun

    @property
    def in_flight(self) -> int:
        """Requests that were accepted and have no answer yet."""
        return len(self._open)

    async def start(self) -> None:
        """Start the threads; returns when every worker is warm, raises what one of them failed with."""
        self._loop = asyncio.get_running_loop()
        warm = [self._loop.create_future() for _ in range(self._workers)]
        self._threads = [threading.Thread(target=self._run_worker, args=(one,), daemon=True) for one in warm]
        for thread in self._threads:
            thread.start()
        for error in await asyncio.gather(*warm, return_exceptions=True):
            if error is not None:
                raise error

    async def stop(self, patience_s: float = 5.0) -> None:
        """Refuse what still waits, let the passes that run end, and join the threads."""
        with self._lock:
            self._stopping = True
            left = list(self._open)
            self._wake(self._workers)
        for asked in left:
            if asked.not_scheduled:
                self._fail(asked, Unavailable("the server is shutting down"))
        until = time.monotonic() + patience_s
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, until - time.monotonic()))

    def submit(self, inputs: Sequence[Any], options: Mapping[str, Any]) -> asyncio.Future[Answers]:
        """Accept a request; its future ends with the answers, or fails.

        Raises ``QueueFull``: too many inputs wait, or they take longer than a request may.
        """
        count = len(inputs)
        if self._stopping:
            raise Unavailable("the server is shutting down")
        if self.queue_depth + count > self._options.max_queue or self._wait_s() > self._options.request_timeout_s:
            raise QueueFull(self._retry_after())
        asked = PendingRequest(inputs, options, self._loop.create_future(), [{}] * count, count, count)
        self._accepted += count
        if not self._fresh:
            self._loop.call_soon(self._enqueue)
        self._fresh.append(asked)
        self._open.add(asked)
        asked.future.add_done_callback(partial(self._cancel, asked))
        return asked.future

    def _enqueue(self) -> None:
        """Give the workers all that came in this turn of the loop: waking one takes longer than to accept a request."""
        with self._lock:
            self._arriving.extend(self._fresh)
            self._wake(1)
        self._fresh = []

    def _wait_s(self) -> float:
        """How long what waits will take, as far as the passes so far tell."""
        return self.queue_depth * self._seconds_per_input / self._workers

    def _retry_after(self) -> int:
        return min(LONGEST_RETRY, max(1, math.ceil(self._wait_s())))

    def _cancel(self, asked: PendingRequest, _: asyncio.Future[Answers]) -> None:
        """Take back what of a cancelled or failed request has not begun; nothing is left of an answered one."""
        self._open.discard(asked)
        if not asked.not_scheduled:
            return
        with self._lock:
            asked.cancelled = True
            self._begun += asked.not_scheduled
            asked.not_scheduled = 0
            for number in asked.numbers:
                self._waiting.remove(number)

    # -- the workers' threads ------------------------------------------------------------------------

    def _run_worker(self, warm: asyncio.Future[None]) -> None:
        try:
            with self._making:  # transformers sets process-wide defaults while it loads
                worker = self._make_worker()
        except BaseException as error:
            self._set_result(resolve_future, warm, error)
            return
        self._set_result(resolve_future, warm, None)
        while batch := self._next_batch(worker):
            begin = time.perf_counter()
            answers = self._answer(worker, batch)
            self._set_result(self._deliver, batch, answers, time.perf_counter() - begin)
        worker.close()

    def _next_batch(self, worker: InferenceWorker) -> list[PendingInput]:
        """What this worker answers next; empty when the batcher stops."""
        own = threading.Condition(self._lock)
        with self._lock:
            self._idle += 1
            try:
                while not self._stopping:
                    if self._arriving and not self._encoding and len(self._waiting) < self._enough:
                        self._encode_arrivals(worker)
                    elif (pause := self._pause()) == 0:
                        return self._next_group()
                    else:
                        self._sleep(own, pause)
                return []
            finally:
                self._idle -= 1

    def _sleep(self, own: threading.Condition, seconds: float | None) -> None:
        """Until it is woken, or so many seconds. Under the lock."""
        self._asleep.append(own)
        own.wait(seconds)
        if own in self._asleep:  # nobody woke it
            self._asleep.remove(own)

    def _wake(self, count: int) -> None:
        """Those that fell asleep last, whose model is still in the processor's caches. Under the lock."""
        for _ in range(min(count, len(self._asleep))):
            self._asleep.pop().notify()

    def _encode_arrivals(self, worker: InferenceWorker) -> None:
        """Encode the oldest requests that arrived, and let their inputs wait by their length. Under the lock."""
        news: list[PendingRequest] = []
        count = len(self._waiting)
        while self._arriving and count < self._enough:
            asked = self._arriving.popleft()
            if not asked.cancelled:
                news.append(asked)
                count += len(asked.inputs)
        self._encoding = True  # by all threads of the tokenizer: a second worker would only be in its way
        self._lock.release()
        try:
            encoded = self._encode(worker, news)
        finally:
            self._lock.acquire()
            self._encoding = False
        now = time.monotonic()
        for asked, parts in zip(news, encoded, strict=True):
            group = tuple(sorted(asked.options.items()))
            for place, one in enumerate(() if asked.cancelled else parts):
                asked.numbers.append(self._waiting.add(PendingInput(asked, place, one, now), round_up(len(one)), group))
        if self._is_shared():
            self._wake(len(self._waiting) - 1)  # this worker takes one itself

    def _encode(self, worker: InferenceWorker, news: Sequence[PendingRequest]) -> list[Sequence[Encoded]]:
        """The token ids of each request; none for one that failed. All at once is twice as fast as one by one."""
        try:
            encoded = iter(worker.encode([row for asked in news for row in asked.inputs]))
            found = [list(islice(encoded, len(asked.inputs))) for asked in news]
            for asked, parts in zip(news, found, strict=True):
                self._check(parts, asked.options)
            return list(found)
        except Exception as error:
            if len(news) > 1:
                return [parts for asked in news for parts in self._encode(worker, [asked])]
            self._set_result(self._fail, news[0], public_error(error, "an input could not be encoded"))
            return [()]

    def _next_group(self) -> list[PendingInput]:
        """Inputs for one pass; what other idle workers can take at the same time is left to them."""
        share = math.ceil(len(self._waiting) / self._idle) if self._is_shared() else len(self._waiting)
        batch = self._waiting.take(min(self._options.max_batch, share), self._cost.tokens)
        self._begun += len(batch)
        for part in batch:
            part.asked.not_scheduled -= 1
        return batch

    def _is_shared(self) -> bool:
        """Whether what waits is enough for several workers, as far as the passes so far tell."""
        each = self._seconds_per_input
        return not each or len(self._waiting) * each > MIN_SHARED_S

    def _pause(self) -> float | None:
        """Seconds to wait before a batch may be taken: 0 is now, ``None`` until something comes."""
        if not self._waiting:
            return None
        if not self._options.max_delay_ms or len(self._waiting) >= self._options.max_batch:
            return 0
        return max(0.0, self._waiting.oldest().since + self._options.max_delay_ms / 1000 - time.monotonic())

    def _answer(self, worker: InferenceWorker, batch: Sequence[PendingInput]) -> list[dict[str, Any] | Exception]:
        """An answer or an error for each; when a batch fails, one input's fault is not the others'."""
        try:
            return list(worker.answer([part.encoded for part in batch], batch[0].asked.options))
        except Exception as error:
            if len(batch) > 1:
                return [answer for part in batch for answer in self._answer(worker, [part])]
            return [public_error(error, "the engine could not answer an input")]

    # -- back on the loop ----------------------------------------------------------------------------

    def _set_result(self, function: Callable[..., None], *given: Any) -> None:
        with suppress(RuntimeError):  # the event loop ended first: nobody waits any more
            self._loop.call_soon_threadsafe(function, *given)

    def _deliver(
        self, batch: Sequence[PendingInput], answers: Sequence[dict[str, Any] | Exception], seconds: float
    ) -> None:
        for part, answer in zip(batch, answers, strict=True):
            asked = part.asked
            if isinstance(answer, Exception):
                self._fail(asked, answer)
                continue
            asked.answers[part.index] = answer
            asked.remaining -= 1
            if not asked.remaining and not asked.future.done():
                asked.future.set_result(asked.answers)
        self._passed(len(batch), seconds)
        self._cost.update(len(batch) * round_up(max(len(part.encoded) for part in batch)), seconds)
        self._seconds_per_input += SMOOTHING * (seconds / len(batch) - self._seconds_per_input)

    def _fail(self, asked: PendingRequest, error: Exception) -> None:
        if not asked.future.done():
            asked.future.set_exception(error)
