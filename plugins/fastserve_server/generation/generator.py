"""Continuous batching: a thread that owns the model runs one pass after another over all active texts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np

from fastserve_core.errors import DataError
from fastserve_core.tasks import (
    DecodeEngine,
    GenerationRequest,
    Row,
    Sampling,
    SequenceChunk,
    TextCodec,
    TextDelta,
    TokenLogprob,
    log_softmax,
)
from fastserve_server.engine_loop import EngineLoop
from fastserve_server.generation.jobs import LENGTH, STOP, TextSequence, TokenStream, collect
from fastserve_server.generation.kv_blocks import KVBlockPool, blocks_needed
from fastserve_server.generation.passes import schedule_batch
from fastserve_server.generation.prompt_lookup import PromptLookup
from fastserve_server.generation.sampling import sample, top_indices
from fastserve_server.generation.scheduling import SCHEDULERS
from fastserve_server.generation.stop_strings import StopStringFilter
from fastserve_server.options import ServingOptions
from fastserve_server.requests import Answers, QueueFullError, check_positions, public_error

Delivery = tuple[TokenStream, TextDelta]
CHARACTERS_PER_TOKEN = 32
"""Characters for each token of the model that a prompt may have: several times the average, so that a prompt beyond is
too long in any case, and is refused before the tokenizer reads it."""
PASS_FAILED = "the engine could not continue a text"


class GenerationEngine(EngineLoop[DecodeEngine]):
    """Generates texts with one decode engine, and streams their tokens.

    Args:
        options: Limits and scheduling options of the server.
        codec: Encodes prompts and decodes tokens.
        make_engine: Creates the decode engine; called in the thread that will use it.
        positions: Maximum number of tokens of a sequence; ``None`` if the model has no limit.
        on_batch: Receives the number of chunks and the seconds of every pass.
        on_tokens: Receives the number of prompt tokens read and of tokens generated in every pass.
        defaults: The task's options, for requests of ``predict`` that do not set them.
    """

    def __init__(
        self,
        options: ServingOptions,
        codec: TextCodec,
        make_engine: Callable[[], DecodeEngine],
        positions: int | None = None,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
        on_tokens: Callable[[int, int], None] = lambda read, generated: None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(options, 1, self._load, on_batch)
        self.codec, self._make_engine, self._positions = codec, make_engine, positions
        self._on_tokens, self._defaults = on_tokens, defaults or {}
        self._scheduler = SCHEDULERS[options.scheduler]()
        self._changed = threading.Condition(self._lock)
        self._arrived: deque[TextSequence] = deque()
        self._active: set[TextSequence] = set()
        self._num_encoding = 0

    @property
    def in_flight(self) -> int:
        """Number of requested texts that are not complete."""
        return len(self._active) + len(self._arrived) + self._num_encoding

    @property
    def queue_depth(self) -> int:
        """Number of texts beyond the ``max_batch`` that run at a time."""
        return max(0, self.in_flight - self._options.max_batch)

    def predict(
        self, rows: Sequence[Row], options: Mapping[str, Any], adapter: str | None = None
    ) -> asyncio.Future[Answers]:
        """Accept a request for complete texts, by a model with an adapter or without; see ``EngineLoop.predict``.

        The future may fail with ``QueueFullError``, ``UnavailableError`` or ``DataError``.
        """
        return asyncio.ensure_future(self._predict(rows, {**self._defaults, **options}, adapter))

    async def _predict(self, rows: Sequence[Row], options: Mapping[str, Any], adapter: str | None) -> Answers:
        prompts = await asyncio.to_thread(self._encode_rows, rows)
        sampling, limit = Sampling(temperature=options["temperature"]), options["max_new_tokens"]
        requests = [GenerationRequest(prompt, limit, sampling, adapter=adapter) for prompt in prompts]
        return [{"text": text.text, "tokens": text.tokens} for text in await collect(self.submit(requests))]

    def _encode_rows(self, rows: Sequence[Row]) -> list[list[int]]:
        by_special = groupby(map(self.codec.prompt, rows), key=itemgetter(1))
        groups = [(special, [text for text, _ in prompts]) for special, prompts in by_special]
        return [ids for special, texts in groups for ids in self.encode(texts, special)]

    def encode(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        """Encode prompts; from any thread but the event loop's.

        Args:
            texts: The prompts.
            special: Whether to add the special tokens; a chat template has added them.

        Raises:
            DataError: A prompt is much too long.
            QueueFullError: Too many texts are waiting.
        """
        self._check_running()
        longest, limit = max(map(len, texts), default=0), self._max_characters
        if limit is not None and longest > limit:
            raise DataError(
                f"a prompt of {longest} characters is too long: this server reads at most {limit}, "
                f"{CHARACTERS_PER_TOKEN} for each of the {self._positions} tokens of the model"
            )
        with self._lock:
            self._check_queue(len(texts))
            self._num_encoding += len(texts)
        try:
            return self.codec.tokens(texts, special)
        finally:
            with self._lock:
                self._num_encoding -= len(texts)

    @property
    def _max_characters(self) -> int | None:
        return None if self._positions is None else CHARACTERS_PER_TOKEN * self._positions

    def _check_queue(self, count: int) -> None:
        if self.in_flight + count > self._options.max_queue + self._options.max_batch:
            # on average, a text has half of the tokens that it may have
            raise QueueFullError(self._retry_after(self.queue_depth * self._options.max_new_tokens / 2))

    def submit(self, requests: Sequence[GenerationRequest]) -> list[TokenStream]:
        """Accept all of the requests, or none.

        Args:
            requests: The texts to generate.

        Returns:
            A stream per request, in their order. Cancel a stream to withdraw its request.

        Raises:
            DataError: A prompt is empty, has unknown tokens, or needs more positions or memory than there are.
            QueueFullError: Too many texts are waiting.
            UnavailableError: The engine is stopping or has failed.
        """
        for request in requests:
            self._check(request)
        sequences = [self._sequence(request) for request in requests]
        with self._lock:
            self._check_running()
            self._check_queue(len(sequences))
            self._arrived += sequences
            self._changed.notify()
        return [sequence.stream for sequence in sequences]

    def _check(self, request: GenerationRequest) -> None:
        vocabulary, length = self.codec.vocabulary, len(request.prompt)
        if unknown := [token for token in request.prompt if not 0 <= token < vocabulary]:
            raise DataError(f"unknown token {unknown[0]}: the model's {vocabulary} tokens are numbered from 0")
        if not request.prompt:
            raise DataError("a prompt cannot be used: it has no tokens that the model knows")
        check_positions(length, request.max_tokens, self._positions)
        if blocks_needed(length + request.max_tokens) > self._num_blocks:
            raise DataError(
                f"a prompt of {length} tokens and {request.max_tokens} new ones need more memory than the "
                f"{self._options.kv_cache_mb} MB of this server's KV cache: shorten the prompt, request fewer new "
                f"tokens or raise {self._options.where}.kv_cache_mb"
            )

    def _sequence(self, request: GenerationRequest) -> TextSequence:
        text_filter = StopStringFilter(self.codec.speller(), request.stops)
        constraint = None if request.json_schema is None else self.codec.constrain(request.json_schema)
        guesses = self._options.guessed_tokens if self._engine.checks_guesses else 0
        lookup = PromptLookup(guesses) if guesses else None
        return TextSequence(
            request, TokenStream(), text_filter, np.random.default_rng(request.seed), constraint, lookup
        )

    def _reject_all(self, error: Exception) -> None:
        with self._lock:
            sequences = [*self._active, *self._arrived]
            self._active.clear()
            self._arrived.clear()
        for sequence in sequences:
            sequence.stream.push(error)

    def _wake_all(self) -> None:
        self._changed.notify_all()

    # -- the thread ----------------------------------------------------------------------------------

    def _load(self) -> DecodeEngine:
        """Create the engine, run a pass to warm it, and divide its cache into blocks."""
        self._engine = engine = self._make_engine()
        engine.step([SequenceChunk([0], 0, [0])])
        self._pool, self._num_blocks = KVBlockPool(engine.blocks, engine.shares_prefixes), engine.blocks
        return engine

    def _work(self, worker: DecodeEngine) -> None:
        while self._admit():
            self._run_step()

    def _admit(self) -> bool:
        """Wait for texts, add the arrived and remove the cancelled ones; false when the loop ends."""
        with self._changed:
            while not self._ended and not self._active and not self._arrived:
                self._changed.wait()
            admitted = list(self._arrived)
            self._arrived.clear()
            self._active |= set(admitted)
            if self._ended:
                return False
            cancelled = [sequence for sequence in self._active if sequence.stream.cancelled]
        for sequence in admitted:
            self._scheduler.add(sequence, time.monotonic())
        for sequence in cancelled:
            self._remove(sequence)
        return True

    def _run_step(self) -> None:
        order = self._scheduler.order(time.monotonic())
        chunks = schedule_batch(order, self._pool, self._options.max_batch)
        if not chunks:
            return
        begin = time.perf_counter()
        try:
            logits = self._engine.step([chunk for _, chunk in chunks])
        except Exception as error:
            public = public_error(error, PASS_FAILED)
            for sequence, _ in chunks:
                self._fail(sequence, public)
            return
        rows = iter(logits)
        results = [
            self._advance(sequence, chunk, list(islice(rows, 1 + chunk.num_guessed))) for sequence, chunk in chunks
        ]
        deltas = list(chain.from_iterable(results))
        self._call_on_loop(_deliver, deltas)
        self._record_pass(len(chunks), time.perf_counter() - begin)
        self._on_tokens(sum(_num_prompt_tokens(sequence, chunk) for sequence, chunk in chunks), len(deltas))

    def _advance(self, sequence: TextSequence, chunk: SequenceChunk, rows: Sequence[Any]) -> list[Delivery]:
        """Apply a pass to a sequence; an error fails this sequence alone."""
        try:
            return self._append_tokens(sequence, chunk, rows)
        except Exception as error:
            self._fail(sequence, public_error(error, PASS_FAILED))
            return []

    def _fail(self, sequence: TextSequence, error: Exception) -> None:
        self._remove(sequence)
        self._call_on_loop(sequence.stream.push, error)

    def _append_tokens(self, sequence: TextSequence, chunk: SequenceChunk, rows: Sequence[Any]) -> list[Delivery]:
        """Sample the next token if the model has processed all tokens, and one more for each guess that was right."""
        known = len(chunk.tokens) - chunk.num_guessed
        sequence.num_cached_tokens += known
        self._pool.publish(sequence)
        complete = not sequence.num_pending_tokens
        self._scheduler.on_step(sequence, known - complete, int(complete), time.monotonic())
        deliveries: list[Delivery] = []
        for guess, logits in zip([*chunk.tokens[known:], None], rows, strict=True) if complete else ():
            deliveries.append(self._append_token(sequence, logits))
            if deliveries[-1][1].finish or sequence.tokens[-1] != guess:
                break
            sequence.num_cached_tokens += 1  # the pass has computed its keys and values
        if sequence.lookup is not None and chunk.num_guessed:
            sequence.lookup.record(len(deliveries) - 1)
        return deliveries

    def _append_token(self, sequence: TextSequence, logits: Any) -> Delivery:
        """Sample a token, and remove the sequence if it ends."""
        request, text_filter = sequence.request, sequence.text_filter
        token = sample(sequence.constrain(logits), request.sampling, sequence.counts, sequence.random)
        sequence.append(token)
        is_open = request.ignore_eos and sequence.constraint is None
        ended = token in self._engine.eos_token_ids and not is_open
        text = "" if ended else text_filter.add(token)
        logprobs = (
            () if ended or request.num_logprobs is None else (self._logprob(logits, token, request.num_logprobs),)
        )
        if not ended and not text_filter.stopped and sequence.num_generated < request.max_tokens:
            return sequence.stream, TextDelta(text, 1, logprobs=logprobs)
        finish = STOP if ended or text_filter.stopped else LENGTH
        self._remove(sequence)
        return sequence.stream, TextDelta(text + text_filter.flush(), 1, finish, logprobs)

    def _logprob(self, logits: Any, token: int, count: int) -> TokenLogprob:
        """Return the log-probability of a token, and those of the most likely ones."""
        logs, text = log_softmax(logits), self.codec.token_text
        best = top_indices(logs, count) if count else ()
        return TokenLogprob(text(token), float(logs[token]), [(text(int(one)), float(logs[one])) for one in best])

    def _remove(self, sequence: TextSequence) -> None:
        self._scheduler.remove(sequence)
        self._pool.free(sequence)
        with self._lock:
            self._active.discard(sequence)


def _num_prompt_tokens(sequence: TextSequence, chunk: SequenceChunk) -> int:
    """Number of the chunk's tokens that belong to the prompt."""
    begin = chunk.num_cached_tokens
    return max(0, min(begin + len(chunk.tokens), len(sequence.request.prompt)) - begin)


def _deliver(deltas: Sequence[Delivery]) -> None:
    for stream, delta in deltas:
        stream.push(delta)
