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

from fastserve_core.errors import InvalidData
from fastserve_core.tasks import DecodeEngine, SequenceChunk, TextCodec
from fastserve_server.generation.jobs import LENGTH, STOP, Delta, GenerationRequest, TextSequence, TokenStream
from fastserve_server.generation.kv_blocks import KVBlockPool, blocks_needed
from fastserve_server.generation.passes import schedule_batch
from fastserve_server.generation.sampling import sample
from fastserve_server.generation.scheduling import SCHEDULERS
from fastserve_server.generation.stop_strings import StopStringFilter
from fastserve_server.options import ServingOptions
from fastserve_server.requests import Answers, QueueFull, Unavailable, check_positions, public_error, resolve_future

SMOOTHING = 0.1
LONGEST_RETRY = 60
CANCELLED, ENDING = "the engine could not go on with a text", "the server is shutting down"
BROKEN = "the server cannot write any more; see its log"


class GenerationEngine:
    """For an event loop; ``submit`` gives a stream of what is written. ``make_stepper`` is called in the thread.

    ``positions`` are the model's, where it has a bound; ``passed`` is told the pieces and the seconds of every pass,
    ``went_on`` how many tokens of prompts were read in it and how many were written.
    """

    def __init__(
        self,
        options: ServingOptions,
        writer: TextCodec,
        make_stepper: Callable[[], DecodeEngine],
        positions: int | None = None,
        passed: Callable[[int, float], None] = lambda size, seconds: None,
        went_on: Callable[[int, int], None] = lambda read, written: None,
    ) -> None:
        self._options, self._make_stepper, self._passed, self._went_on = options, make_stepper, passed, went_on
        self.writer, self._positions = writer, positions
        self._scheduler = SCHEDULERS[options.scheduler]()
        self._changed = threading.Condition(threading.Lock())
        self._arriving: deque[TextSequence] = deque()
        self._jobs: set[TextSequence] = set()
        self._stopping = self.broken = False
        self._seconds_per_token = 0.0

    @property
    def in_flight(self) -> int:
        """Texts that are asked for and not done."""
        return len(self._jobs) + len(self._arriving)

    @property
    def queue_depth(self) -> int:
        """Texts that wait: more than go on at a time."""
        return max(0, self.in_flight - self._options.max_batch)

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

    def submit(self, wishes: Sequence[GenerationRequest]) -> list[TokenStream]:
        """All of them or none: raises ``QueueFull``, ``InvalidData`` for a text that has no room, ``Unavailable``."""
        for wish in wishes:
            self._check(wish)
        jobs = [self._job(wish) for wish in wishes]
        with self._changed:
            if self._stopping:
                raise Unavailable(ENDING)
            if self.broken:
                raise Unavailable(BROKEN)
            if self.in_flight + len(jobs) > self._options.max_queue + self._options.max_batch:
                raise QueueFull(self._retry_after())
            self._arriving += jobs
            self._changed.notify()
        return [job.stream for job in jobs]

    def _retry_after(self) -> int:
        """Seconds until those that wait may have begun, if all ask for half of what they may."""
        tokens = self.queue_depth * self._options.max_new_tokens / 2
        return min(LONGEST_RETRY, max(1, math.ceil(tokens * self._seconds_per_token)))

    def _check(self, wish: GenerationRequest) -> None:
        if strangers := [one for one in wish.prompt if not 0 <= one < self.writer.vocabulary]:
            raise InvalidData(
                f"the model has no token {strangers[0]}: its {self.writer.vocabulary} are numbered from 0"
            )
        if not wish.prompt:
            raise InvalidData("a prompt cannot be used: it has no tokens that the model knows")
        check_positions(len(wish.prompt), wish.max_tokens, self._positions)
        if blocks_needed(len(wish.prompt) + wish.max_tokens) > self._blocks:
            raise InvalidData(
                f"a prompt of {len(wish.prompt)} tokens and {wish.max_tokens} new ones need more memory than the "
                f"{self._options.kv_cache_mb} MB that this server has for keys and values: shorten the prompt or ask "
                f"for fewer, or raise {self._options.where}.kv_cache_mb"
            )

    def _job(self, wish: GenerationRequest) -> TextSequence:
        spelling = StopStringFilter(self.writer.speller(), wish.stops)
        return TextSequence(wish, TokenStream(), spelling, np.random.default_rng(wish.seed), list(wish.prompt))

    # -- the thread ----------------------------------------------------------------------------------

    def _run(self, warm: asyncio.Future[None]) -> None:
        try:
            self._stepper = stepper = self._make_stepper()
            stepper.step([SequenceChunk([0], 0, [0])])
        except BaseException as error:
            self._tell(resolve_future, warm, error)
            return
        self._pool, self._blocks = KVBlockPool(stepper.blocks), stepper.blocks
        self._tell(resolve_future, warm, None)
        why: Exception = Unavailable(ENDING)
        try:
            while self._take_in():
                self._run_step()
        except Exception as error:
            why = public_error(error, BROKEN)
        with self._changed:
            self.broken = not self._stopping  # nobody is left to take what comes
            left = [*self._jobs, *self._arriving]
        for job in left:
            self._tell(job.stream.push, why)
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

    def _run_step(self) -> None:
        order = self._scheduler.order(time.monotonic())
        chosen = schedule_batch(order, self._pool, self._options.max_batch)
        if not chosen:
            return
        begin = time.perf_counter()
        try:
            logits = self._stepper.step([piece for _, piece in chosen])
        except Exception as error:
            why = public_error(error, CANCELLED)
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

    def _after(self, job: TextSequence, piece: SequenceChunk, logits: Any) -> tuple[TokenStream, Delta] | None:
        """What the pass did for a job; a fault there is its own."""
        try:
            return self._record_step(job, piece, logits)
        except Exception as error:
            self._fail(job, public_error(error, CANCELLED))
            return None

    def _fail(self, job: TextSequence, why: Exception) -> None:
        self._end(job)
        self._tell(job.stream.push, why)

    def _record_step(self, job: TextSequence, piece: SequenceChunk, logits: Any) -> tuple[TokenStream, Delta] | None:
        """Take the next token, where the job has none left that the model has not seen."""
        job.past += len(piece.tokens)
        whole = not job.ahead
        self._scheduler.on_step(job, len(piece.tokens) - whole, int(whole), time.monotonic())
        if not whole:
            return None
        token = sample(logits, job.wish.sampling, job.counts, job.random)
        job.tokens.append(token)
        job.counts[token] += 1
        job.written += 1
        ended = token in self._stepper.eos_token_ids and not job.wish.on
        text = "" if ended else job.spelling.add(token)
        if not ended and not job.spelling.stopped and job.written < job.wish.max_tokens:
            return job.stream, Delta(text, 1)
        finish = STOP if ended or job.spelling.stopped else LENGTH
        self._end(job)
        return job.stream, Delta(text + job.spelling.flush(), 1, finish)

    def _end(self, job: TextSequence) -> None:
        self._scheduler.remove(job)
        self._pool.free(job)
        with self._changed:
            self._jobs.discard(job)

    def _tell(self, function: Callable[..., None], *given: Any) -> None:
        with suppress(RuntimeError):  # the event loop ended first: nobody waits any more
            self._loop.call_soon_threadsafe(function, *given)


def _of_prompt(job: TextSequence, piece: SequenceChunk) -> int:
    """How many of a piece's tokens are of the prompt."""
    return max(0, min(piece.num_cached_tokens + len(piece.tokens), len(job.wish.prompt)) - piece.num_cached_tokens)


def _deliver(news: Sequence[tuple[TokenStream, Delta]]) -> None:
    for stream, delta in news:
        stream.push(delta)


async def collect(streams: Sequence[TokenStream]) -> Answers:
    """The texts when all are done: ``text``, ``tokens`` and ``finish``; gives them up when it is cancelled."""
    try:
        return [await _collect(one) for one in streams]
    finally:
        for one in streams:
            one.cancel()


async def _collect(stream: TokenStream) -> dict[str, Any]:
    deltas = [delta async for delta in stream]
    return {
        "text": "".join(one.text for one in deltas),
        "tokens": sum(one.tokens for one in deltas),
        "finish": deltas[-1].finish,
    }
