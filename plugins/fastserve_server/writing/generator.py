"""Writes texts: a thread that owns the model does one pass after another, with all that was asked for until then."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from fastserve_core.errors import BadData
from fastserve_core.tasks.generation import Piece, Stepper, Writer
from fastserve_server.asked import Answers, QueueFull, Unavailable, check_positions, settle, told
from fastserve_server.options import Serving
from fastserve_server.writing.blocks import Pool, needed
from fastserve_server.writing.jobs import LENGTH, STOP, Delta, Job, Stream, Wish
from fastserve_server.writing.passes import plan
from fastserve_server.writing.sampling import choose
from fastserve_server.writing.scheduling import SCHEDULERS
from fastserve_server.writing.spelling import Spelling

SMOOTHING = 0.1
LONGEST_RETRY = 60
GIVEN_UP, ENDING = "the engine could not go on with a text", "the server is shutting down"
BROKEN = "the server cannot write any more; see its log"


class Generator:
    """For an event loop; ``submit`` gives a stream of what is written. ``make_stepper`` is called in the thread.

    ``positions`` are the model's, where it has a bound; ``passed`` is told the pieces and the seconds of every pass,
    ``went_on`` how many tokens of prompts were read in it and how many were written.
    """

    def __init__(
        self,
        options: Serving,
        writer: Writer,
        make_stepper: Callable[[], Stepper],
        positions: int | None = None,
        passed: Callable[[int, float], None] = lambda size, seconds: None,
        went_on: Callable[[int, int], None] = lambda read, written: None,
    ) -> None:
        self._options, self._make_stepper, self._passed, self._went_on = options, make_stepper, passed, went_on
        self.writer, self._positions = writer, positions
        self._scheduler = SCHEDULERS[options.scheduler]()
        self._changed = threading.Condition(threading.Lock())
        self._arriving: deque[Job] = deque()
        self._jobs: set[Job] = set()
        self._stopping = self.broken = False
        self._seconds_per_token = 0.0

    @property
    def open(self) -> int:
        """Texts that are asked for and not done."""
        return len(self._jobs) + len(self._arriving)

    @property
    def depth(self) -> int:
        """Texts that wait: more than go on at a time."""
        return max(0, self.open - self._options.max_batch)

    async def start(self) -> None:
        """Returns when the model is warm; raises what loading it failed with."""
        self._loop = asyncio.get_running_loop()
        warm = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(warm,), daemon=True)
        self._thread.start()
        await warm

    async def stop(self, patience_s: float = 5.0) -> None:
        """Refuse what is not done, and join the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        await asyncio.to_thread(self._thread.join, patience_s)

    def submit(self, wishes: Sequence[Wish]) -> list[Stream]:
        """All of them or none: raises ``QueueFull``, ``BadData`` for a text that has no room, ``Unavailable``."""
        for wish in wishes:
            self._check(wish)
        jobs = [self._job(wish) for wish in wishes]
        with self._changed:
            if self._stopping:
                raise Unavailable(ENDING)
            if self.broken:
                raise Unavailable(BROKEN)
            if self.open + len(jobs) > self._options.max_queue + self._options.max_batch:
                raise QueueFull(self._retry_after())
            self._arriving += jobs
            self._changed.notify()
        return [job.stream for job in jobs]

    def _retry_after(self) -> int:
        """Seconds until those that wait may have begun, if all ask for half of what they may."""
        tokens = self.depth * self._options.max_new_tokens / 2
        return min(LONGEST_RETRY, max(1, math.ceil(tokens * self._seconds_per_token)))

    def _check(self, wish: Wish) -> None:
        if strangers := [one for one in wish.prompt if not 0 <= one < self.writer.vocabulary]:
            raise BadData(f"the model has no token {strangers[0]}: its {self.writer.vocabulary} are numbered from 0")
        if not wish.prompt:
            raise BadData("a prompt cannot be used: it has no tokens that the model knows")
        check_positions(len(wish.prompt), wish.most, self._positions)
        if needed(len(wish.prompt) + wish.most) > self._blocks:
            raise BadData(
                f"a prompt of {len(wish.prompt)} tokens and {wish.most} new ones need more memory than the "
                f"{self._options.cache_mb} MB that this server has for keys and values: shorten the prompt or ask "
                f"for fewer, or raise {self._options.where}.cache_mb"
            )

    def _job(self, wish: Wish) -> Job:
        spelling = Spelling(self.writer.speller(), wish.stops)
        return Job(wish, Stream(), spelling, np.random.default_rng(wish.seed), list(wish.prompt))

    # -- the thread ----------------------------------------------------------------------------------

    def _run(self, warm: asyncio.Future[None]) -> None:
        try:
            self._stepper = stepper = self._make_stepper()
            stepper.step([Piece([0], 0, [0])])
        except BaseException as error:
            self._tell(settle, warm, error)
            return
        self._pool, self._blocks = Pool(stepper.blocks), stepper.blocks
        self._tell(settle, warm, None)
        why: Exception = Unavailable(ENDING)
        try:
            while self._take_in():
                self._pass()
        except Exception as error:
            why = told(error, BROKEN)
        with self._changed:
            self.broken = not self._stopping  # nobody is left to take what comes
            left = [*self._jobs, *self._arriving]
        for job in left:
            self._tell(job.stream.tell, why)
        stepper.close()

    def _take_in(self) -> bool:
        """Wait for something to do; False when the server stops."""
        with self._changed:
            while not self._stopping and not self._jobs and not self._arriving:
                self._changed.wait()
            news = list(self._arriving)
            self._arriving.clear()
            self._jobs |= set(news)
            if self._stopping:
                return False
        for job in news:
            self._scheduler.add(job, time.monotonic())
        for job in [one for one in self._jobs if one.stream.gone]:
            self._end(job)
        return True

    def _pass(self) -> None:
        order = self._scheduler.order(time.monotonic())
        chosen = plan(order, self._pool, self._options.max_batch)
        if not chosen:
            return
        begin = time.perf_counter()
        try:
            logits = self._stepper.step([piece for _, piece in chosen])
        except Exception as error:
            why = told(error, GIVEN_UP)
            for job, _ in chosen:
                self._fail(job, why)
            return
        news = [self._after(job, piece, row) for (job, piece), row in zip(chosen, logits, strict=True)]
        self._tell(_deliver, [one for one in news if one is not None])
        seconds = time.perf_counter() - begin
        self._passed(len(chosen), seconds)
        written = sum(one is not None for one in news)
        self._went_on(sum(_of_prompt(job, piece) for job, piece in chosen), written)
        self._seconds_per_token += SMOOTHING * (seconds / len(chosen) - self._seconds_per_token)

    def _after(self, job: Job, piece: Piece, logits: Any) -> tuple[Stream, Delta] | None:
        """What the pass did for a job; a fault there is its own."""
        try:
            return self._went(job, piece, logits)
        except Exception as error:
            self._fail(job, told(error, GIVEN_UP))
            return None

    def _fail(self, job: Job, why: Exception) -> None:
        self._end(job)
        self._tell(job.stream.tell, why)

    def _went(self, job: Job, piece: Piece, logits: Any) -> tuple[Stream, Delta] | None:
        """Take the next token, where the job has none left that the model has not seen."""
        job.past += len(piece.tokens)
        whole = not job.ahead
        self._scheduler.ran(job, len(piece.tokens) - whole, int(whole), time.monotonic())
        if not whole:
            return None
        token = choose(logits, job.wish.sampling, job.counts, job.random)
        job.tokens.append(token)
        job.counts[token] += 1
        job.written += 1
        ended = token in self._stepper.ends and not job.wish.on
        text = "" if ended else job.spelling.add(token)
        if not ended and not job.spelling.stopped and job.written < job.wish.most:
            return job.stream, Delta(text, 1)
        finish = STOP if ended or job.spelling.stopped else LENGTH
        self._end(job)
        return job.stream, Delta(text + job.spelling.rest(), 1, finish)

    def _end(self, job: Job) -> None:
        self._scheduler.remove(job)
        self._pool.take_back(job)
        with self._changed:
            self._jobs.discard(job)

    def _tell(self, function: Callable[..., None], *given: Any) -> None:
        with suppress(RuntimeError):  # the event loop ended first: nobody waits any more
            self._loop.call_soon_threadsafe(function, *given)


def _of_prompt(job: Job, piece: Piece) -> int:
    """How many of a piece's tokens are of the prompt."""
    return max(0, min(piece.past + len(piece.tokens), len(job.wish.prompt)) - piece.past)


def _deliver(news: Sequence[tuple[Stream, Delta]]) -> None:
    for stream, delta in news:
        stream.tell(delta)


async def whole(streams: Sequence[Stream]) -> Answers:
    """The texts when all are done: ``text``, ``tokens`` and ``finish``; gives them up when it is cancelled."""
    try:
        return [await _whole(one) for one in streams]
    finally:
        for one in streams:
            one.cancel()


async def _whole(stream: Stream) -> dict[str, Any]:
    deltas = [delta async for delta in stream]
    return {
        "text": "".join(one.text for one in deltas),
        "tokens": sum(one.tokens for one in deltas),
        "finish": deltas[-1].finish,
    }
