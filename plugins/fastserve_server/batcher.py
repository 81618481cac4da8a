"""Dynamic batching: requests of an event loop, answered in batches by engine workers in threads.

A free worker encodes the requests that arrived, takes inputs that fit into one pass, and returns their answers to the
event loop. Cancelling a request's future withdraws its inputs that no pass has started.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from fastserve_core.tasks import Encoded, Row
from fastserve_server.engine_loop import SMOOTHING, EngineLoop
from fastserve_server.length_batching import BatchCostModel, LengthQueue, round_up
from fastserve_server.options import ServingOptions
from fastserve_server.requests import (
    Answers,
    InferenceWorker,
    PendingInput,
    PendingRequest,
    QueueFullError,
    public_error,
)
from fastserve_server.sleeping_workers import SleepingWorkers

MIN_SHARED_S = 0.001
"""Work of at most this many seconds stays with one worker: waking another one costs more, and both need the GIL."""
ENCODE_AHEAD_BATCHES = 4
"""Number of full batches that are encoded at a time: enough to group by length, few enough to start soon."""


class Batcher(EngineLoop[InferenceWorker]):
    """Batches inputs by length for several workers.

    Args:
        options: Limits and batching options of the server.
        num_workers: Number of threads, each with its own worker.
        make_worker: Creates and warms a worker; called in the thread that will use it.
        check: Raises for encoded inputs of a request that must be rejected; called in a worker's thread.
        on_batch: Receives the number of inputs and the seconds of every engine pass.
    """

    def __init__(
        self,
        options: ServingOptions,
        num_workers: int,
        make_worker: Callable[[], InferenceWorker],
        check: Callable[[Sequence[Encoded], Mapping[str, Any]], None] = lambda encoded, options: None,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        super().__init__(options, num_workers, make_worker, on_batch)
        self._check, self._encode_limit = check, ENCODE_AHEAD_BATCHES * options.max_batch
        self._sleeping = SleepingWorkers(self._lock)
        self._waiting: LengthQueue[PendingInput] = LengthQueue()
        self._cost = BatchCostModel()
        self._submitted: list[PendingRequest] = []
        self._arrived: deque[PendingRequest] = deque()
        self._open: set[PendingRequest] = set()
        self._num_accepted = self._num_encoded = self._num_started = self._num_idle = 0
        self._seconds_per_encoding = 0.0
        self._encoding = False

    @property
    def queue_depth(self) -> int:
        """Number of accepted inputs that no pass has started."""
        return self._num_accepted - self._num_started

    @property
    def in_flight(self) -> int:
        """Number of accepted requests that have no answer yet."""
        return len(self._open)

    def predict(self, rows: Sequence[Row], options: Mapping[str, Any]) -> asyncio.Future[Answers]:
        """Accept a request; see ``EngineLoop.predict``.

        ``QueueFullError`` is also raised if the waiting inputs are estimated to take longer than ``request_timeout_s``.
        """
        count = len(rows)
        self._check_running()
        if self.queue_depth + count > self._options.max_queue or self._wait_s() > self._options.request_timeout_s:
            raise QueueFullError(self._retry_after(self.queue_depth / self._num_workers))
        request = PendingRequest(rows, options, self._loop.create_future(), [{}] * count, count, count)
        self._num_accepted += count
        if not self._submitted:
            self._loop.call_soon(self._enqueue)
        self._submitted.append(request)
        self._open.add(request)
        request.future.add_done_callback(partial(self._cancel, request))
        return request.future

    def _reject_waiting(self, error: Exception) -> None:
        for request in [request for request in self._open if request.not_scheduled]:
            self._fail(request, error)

    def _reject_all(self, error: Exception) -> None:
        for request in list(self._open):
            self._fail(request, error)

    def _enqueue(self) -> None:
        """Pass on every request of this turn of the loop: waking a worker takes longer than accepting a request."""
        with self._lock:
            self._arrived.extend(self._submitted)
            self._sleeping.wake(1)
        self._submitted = []

    def _wait_s(self) -> float:
        """Estimated seconds until the waiting inputs are encoded and answered, from past calls and passes."""
        not_encoded = self._num_accepted - self._num_encoded  # by one worker at a time
        return not_encoded * self._seconds_per_encoding + self.queue_depth * self._seconds_per_item / self._num_workers

    def _cancel(self, request: PendingRequest, _: asyncio.Future[Answers]) -> None:
        """Withdraw the inputs of a done request that no pass has started."""
        self._open.discard(request)
        if not request.not_scheduled:
            return
        with self._lock:
            request.cancelled = True
            self._num_started += request.not_scheduled
            request.not_scheduled = 0
            for queue_id in request.queue_ids:
                self._waiting.remove(queue_id)

    # -- the workers' threads ------------------------------------------------------------------------

    def _work(self, worker: InferenceWorker) -> None:
        while batch := self._next_batch(worker):
            begin = time.perf_counter()
            answers = self._answer(worker, batch)
            self._call_on_loop(self._deliver, batch, answers, time.perf_counter() - begin)

    def _next_batch(self, worker: InferenceWorker) -> list[PendingInput]:
        """Wait for the next batch of this worker; empty when the loop ends."""
        with self._lock:
            self._num_idle += 1
            try:
                while not self._ended:
                    if self._arrived and not self._encoding and len(self._waiting) < self._encode_limit:
                        self._encode_arrivals(worker)
                    elif (pause := self._pause()) == 0:
                        return self._next_group()
                    else:
                        self._sleeping.sleep(pause)
                return []
            finally:
                self._num_idle -= 1

    def _wake_all(self) -> None:
        self._sleeping.wake(self._num_workers)

    def _encode_arrivals(self, worker: InferenceWorker) -> None:
        """Encode the oldest arrived requests and queue their inputs by length; called with the lock held."""
        batch = self._take_arrivals()
        count = sum(len(request.inputs) for request in batch)
        self._encoding = True  # the tokenizer uses all threads: a second worker would only slow it down
        self._lock.release()
        begin = time.perf_counter()
        try:
            encoded = self._encode(worker, batch)
        finally:
            self._lock.acquire()
            self._encoding = False
            self._num_encoded += count
        if count:
            seconds = (time.perf_counter() - begin) / count
            self._seconds_per_encoding += SMOOTHING * (seconds - self._seconds_per_encoding)
        now = time.monotonic()
        for request, parts in zip(batch, encoded, strict=True):
            group = repr(sorted(request.options.items()))  # a value may be a mapping, which has no hash
            for index, row in enumerate(() if request.cancelled else parts):
                pending = PendingInput(request, index, row, now)
                request.queue_ids.append(self._waiting.add(pending, round_up(len(row)), group))
        if self._is_shared():
            self._sleeping.wake(len(self._waiting) - 1)  # this worker takes an input itself

    def _take_arrivals(self) -> list[PendingRequest]:
        """Remove the oldest arrived requests that were not cancelled, up to ``_encode_limit`` waiting inputs."""
        batch: list[PendingRequest] = []
        count = len(self._waiting)
        while self._arrived and count < self._encode_limit:
            request = self._arrived.popleft()
            if request.cancelled:
                self._num_encoded += len(request.inputs)
            else:
                batch.append(request)
                count += len(request.inputs)
        return batch

    def _encode(self, worker: InferenceWorker, requests: Sequence[PendingRequest]) -> list[Sequence[Encoded]]:
        """Encode the inputs of each request; empty for a request that failed. A joint call is twice as fast."""
        try:
            encoded = iter(worker.encode([row for request in requests for row in request.inputs]))
            encodings = [list(islice(encoded, len(request.inputs))) for request in requests]
            for request, parts in zip(requests, encodings, strict=True):
                self._check(parts, request.options)
            return list(encodings)
        except Exception as error:
            if len(requests) > 1:
                return [parts for request in requests for parts in self._encode(worker, [request])]
            self._call_on_loop(self._fail, requests[0], public_error(error, "an input could not be encoded"))
            return [()]

    def _next_group(self) -> list[PendingInput]:
        """Take inputs for one pass, and leave the other idle workers their share."""
        share = math.ceil(len(self._waiting) / self._num_idle) if self._is_shared() else len(self._waiting)
        batch = self._waiting.take(min(self._options.max_batch, share), self._cost.tokens)
        self._num_started += len(batch)
        for pending in batch:
            pending.request.not_scheduled -= 1
        return batch

    def _is_shared(self) -> bool:
        """Whether the waiting inputs are enough work for several workers, estimated from past passes."""
        seconds = self._seconds_per_item
        return not seconds or len(self._waiting) * seconds > MIN_SHARED_S

    def _pause(self) -> float | None:
        """Seconds to wait before a batch may be taken: 0 is now, ``None`` until an input arrives."""
        if not self._waiting:
            return None
        if not self._options.max_delay_ms or len(self._waiting) >= self._options.max_batch:
            return 0
        return max(0.0, self._waiting.oldest().arrival_s + self._options.max_delay_ms / 1000 - time.monotonic())

    def _answer(self, worker: InferenceWorker, batch: Sequence[PendingInput]) -> list[dict[str, Any] | Exception]:
        """Answer each input; if a batch fails, every input is tried alone, so that only the faulty ones fail."""
        try:
            return list(worker.answer([pending.encoded for pending in batch], batch[0].request.options))
        except Exception as error:
            if len(batch) > 1:
                return [answer for pending in batch for answer in self._answer(worker, [pending])]
            return [public_error(error, "the engine could not answer an input")]

    # -- on the event loop ----------------------------------------------------------------------------

    def _deliver(
        self, batch: Sequence[PendingInput], answers: Sequence[dict[str, Any] | Exception], seconds: float
    ) -> None:
        for pending, answer in zip(batch, answers, strict=True):
            request = pending.request
            if isinstance(answer, Exception):
                self._fail(request, answer)
                continue
            request.answers[pending.index] = answer
            request.remaining -= 1
            if not request.remaining and not request.future.done():
                request.future.set_result(request.answers)
        self._record_pass(len(batch), seconds)
        self._cost.update(len(batch) * round_up(max(len(pending.encoded) for pending in batch)), seconds)

    def _fail(self, request: PendingRequest, error: Exception) -> None:
        if not request.future.done():
            request.future.set_exception(error)
