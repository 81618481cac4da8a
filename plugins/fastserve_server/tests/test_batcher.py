"""The batcher with an engine that does as the test says."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastserve_core.errors import DataError
from fastserve_core.tasks import Encoded
from fastserve_server.batcher import Batcher
from fastserve_server.options import ServingOptions
from fastserve_server.requests import Answers, EngineError, QueueFullError, UnavailableError


class Puppet:
    """An engine that waits for ``go``, notes its batches, and fails on the text ``bad``."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[list[int]] = []
        self.begun = threading.Event()
        self.closed = False

    def encode(self, rows: Sequence[Any]) -> list[Encoded]:
        if any(row["text"] == "unreadable" for row in rows):
            raise DataError("an input cannot be used")
        if any(row["text"] == "broken tokenizer" for row in rows):
            raise ZeroDivisionError
        return [Encoded({"input_ids": [0] * len(row["text"])}, decode_state=row["text"]) for row in rows]

    def answer(self, batch: Sequence[Encoded], options: Mapping[str, Any] | None = None) -> Answers:
        self.begun.set()
        self.go.wait(10)
        if any(one.decode_state == "bad" for one in batch):
            raise ZeroDivisionError
        self.batches.append([len(one) for one in batch])
        return [{"text": one.decode_state, "options": dict(options or {})} for one in batch]

    def close(self) -> None:
        self.closed = True


def rows(*texts: str) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]


def play(scene: Callable[[Batcher, Puppet], Coroutine[Any, Any, None]], **options: Any) -> Puppet:
    """Run a scene with a batcher of one worker."""
    puppet = Puppet()

    async def run() -> None:
        batcher = Batcher(ServingOptions(**options), 1, lambda: puppet)
        await batcher.start()
        try:
            await scene(batcher, puppet)
        finally:
            puppet.go.set()
            await batcher.stop()

    asyncio.run(asyncio.wait_for(run(), 20))
    assert puppet.closed
    return puppet


async def hold(batcher: Batcher, puppet: Puppet) -> asyncio.Future[Answers]:
    """Keep the worker busy with one input, so that what comes next has to wait."""
    first = batcher.predict(rows("x"), {})
    await asyncio.to_thread(puppet.begun.wait, 10)
    return first


def test_waiting_inputs_are_batched_by_length() -> None:
    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        first = await hold(batcher, puppet)
        short = [batcher.predict(rows("a" * 5), {}) for _ in range(6)]
        long = [batcher.predict(rows("b" * 100), {}) for _ in range(6)]
        puppet.go.set()
        answers = await asyncio.gather(first, *short, *long)
        assert [one[0]["text"] for one in answers] == ["x", *["a" * 5] * 6, *["b" * 100] * 6]

    assert play(scene, max_batch=4).batches == [[1], [5] * 4, [5] * 2, [100] * 4, [100] * 2]


def test_lengths_within_a_step_go_together_even_where_a_pass_costs_nothing() -> None:
    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        batcher._cost.tokens = 0  # as passes of an engine told it that takes nothing beside the tokens
        first = await hold(batcher, puppet)
        asked = [batcher.predict(rows("a" * length), {}) for length in (20, 17, 21, 18)]
        puppet.go.set()
        await asyncio.gather(first, *asked)

    assert sorted(map(sorted, play(scene).batches)) == [[1], [17, 18, 20], [21]]


def test_a_request_of_many_inputs_keeps_its_order() -> None:
    texts = ["a" * (1 + 37 * number % 90) for number in range(50)]

    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        puppet.go.set()
        answers = await batcher.predict(rows(*texts), {})
        assert [one["text"] for one in answers] == texts

    play(scene, max_batch=8)


def test_other_options_are_another_batch() -> None:
    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        first = await hold(batcher, puppet)
        asked = [batcher.predict(rows("a"), {"max_new_tokens": number % 2}) for number in range(4)]
        puppet.go.set()
        await asyncio.gather(first, *asked)
        assert [one.result()[0]["options"]["max_new_tokens"] for one in asked] == [0, 1, 0, 1]

    assert play(scene).batches == [[1], [1, 1], [1, 1]]


def test_a_delay_gathers_a_fuller_batch() -> None:
    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        puppet.go.set()
        asked = []
        for _ in range(3):
            asked.append(batcher.predict(rows("a"), {}))
            await asyncio.sleep(0.02)
        await asyncio.gather(*asked)

    assert play(scene, max_delay_ms=200.0).batches == [[1, 1, 1]]


def test_a_full_batch_does_not_wait_out_the_delay() -> None:
    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        puppet.go.set()
        await asyncio.wait_for(batcher.predict(rows("a", "b"), {}), 2)

    assert play(scene, max_delay_ms=60_000.0, max_batch=2).batches == [[1, 1]]


def test_requests_that_would_miss_their_deadline_are_refused_at_once() -> None:
    class Slow(Puppet):
        def answer(self, batch: Sequence[Encoded], options: Mapping[str, Any] | None = None) -> Answers:
            time.sleep(0.05)
            return [{"text": one.decode_state} for one in batch]

    async def scene() -> None:
        batcher = Batcher(ServingOptions(max_batch=1, request_timeout_s=0.5), 1, Slow)
        await batcher.start()
        await asyncio.gather(*[batcher.predict(rows("a"), {}) for _ in range(8)])
        begin, asked = time.perf_counter(), []
        with pytest.raises(QueueFullError) as refused:
            for _ in range(1000):
                asked.append(batcher.predict(rows("a"), {}))
        assert refused.value.retry_after == 1
        assert 2 <= len(asked) <= 40, "the queue has room for a thousand"
        await asyncio.gather(*asked)
        assert time.perf_counter() - begin < 10 * 0.5
        await batcher.stop()

    asyncio.run(asyncio.wait_for(scene(), 20))


def test_the_queue_is_bounded_and_reports_when_to_come_back() -> None:
    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        first = await hold(batcher, puppet)
        asked = batcher.predict(rows("a", "b", "c"), {})
        assert batcher.queue_depth == 3
        with pytest.raises(QueueFullError) as refused:
            batcher.predict(rows("d", "e"), {})
        assert refused.value.retry_after >= 1
        last = batcher.predict(rows("d"), {})
        puppet.go.set()
        await asyncio.gather(first, asked, last)
        assert batcher.queue_depth == 0

    play(scene, max_queue=4, max_inputs=4)


@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["while it arrives", "while it waits"])
def test_a_cancelled_request_is_never_begun(pause: float) -> None:
    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        first = await hold(batcher, puppet)
        gone, stays = batcher.predict(rows("gone", "gone"), {}), batcher.predict(rows("stays"), {})
        await asyncio.sleep(pause)
        gone.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert batcher.queue_depth == 1
        puppet.go.set()
        await asyncio.gather(first, stays)

    assert play(scene).batches == [[1], [5]]


def test_one_bad_input_fails_alone() -> None:
    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        first = await hold(batcher, puppet)
        good, bad = batcher.predict(rows("good"), {}), batcher.predict(rows("bad"), {})
        puppet.go.set()
        assert (await good)[0]["text"] == "good"
        with pytest.raises(EngineError, match="could not answer"):
            await bad
        await first

    play(scene)


@pytest.mark.parametrize(("text", "error"), [("unreadable", DataError), ("broken tokenizer", EngineError)])
def test_an_input_that_cannot_be_encoded_fails_alone(text: str, error: type[Exception]) -> None:
    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        first = await hold(batcher, puppet)
        good, bad = batcher.predict(rows("good"), {}), batcher.predict(rows("fine", text), {})
        puppet.go.set()
        assert (await good)[0]["text"] == "good"
        with pytest.raises(error):
            await bad
        await first
        assert batcher.queue_depth == 0

    play(scene)


def test_stopping_refuses_waiting_requests_and_finishes_running_ones() -> None:
    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        first = await hold(batcher, puppet)
        waits = batcher.predict(rows("waits"), {})
        stopping = asyncio.ensure_future(batcher.stop())
        with pytest.raises(UnavailableError):
            await waits
        puppet.go.set()
        await stopping
        assert (await first)[0]["text"] == "x"
        with pytest.raises(UnavailableError):
            batcher.predict(rows("late"), {})

    play(scene)


@asynccontextmanager
async def two_idle_workers(puppets: Sequence[Puppet]) -> AsyncIterator[Batcher]:
    left = list(puppets)
    batcher = Batcher(ServingOptions(), 2, left.pop)
    await batcher.start()
    await asyncio.sleep(0.05)
    yield batcher
    await batcher.stop()


def test_idle_workers_share_a_batch() -> None:
    puppets = [Puppet(), Puppet()]

    async def run() -> None:
        async with two_idle_workers(puppets) as batcher:
            asked = batcher.predict(rows(*["text"] * 8), {})
            for puppet in puppets:
                assert await asyncio.to_thread(puppet.begun.wait, 5)
            for puppet in puppets:
                puppet.go.set()
            await asked

    asyncio.run(asyncio.wait_for(run(), 20))
    assert [puppet.batches for puppet in puppets] == [[[4] * 4], [[4] * 4]]


def test_short_work_is_not_shared() -> None:
    puppets = [Puppet(), Puppet()]
    for puppet in puppets:
        puppet.go.set()

    async def run() -> None:
        async with two_idle_workers(puppets) as batcher:
            batcher._seconds_per_item = 1e-6  # as passes of a small model told it
            await batcher.predict(rows(*["text"] * 8), {})

    asyncio.run(asyncio.wait_for(run(), 20))
    assert sorted(puppet.batches for puppet in puppets) == [[], [[4] * 8]]


def test_a_worker_that_cannot_be_made_is_reported() -> None:
    def fail() -> Puppet:
        raise DataError("no weights")

    async def run() -> None:
        batcher = Batcher(ServingOptions(), 2, fail)
        with pytest.raises(DataError, match="no weights"):
            await batcher.start()
        await batcher.stop()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_failed_worker_ends_the_loop() -> None:
    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        def fail() -> float | None:
            raise ZeroDivisionError

        first = await hold(batcher, puppet)
        waiting = batcher.predict(rows("waits"), {})
        batcher._pause = fail  # type: ignore[method-assign]
        puppet.go.set()
        assert (await first)[0]["text"] == "x"
        with pytest.raises(EngineError, match="an engine worker failed"):
            await waiting
        await asyncio.sleep(0)  # let the callbacks of the futures run
        assert batcher.failure
        assert batcher.in_flight == 0
        with pytest.raises(UnavailableError, match="an engine worker failed"):
            batcher.predict(rows("late"), {})

    play(scene)


def test_the_estimate_of_the_queue_includes_encoding() -> None:
    async def scene(batcher: Batcher, puppet: Puppet) -> None:
        encode, release = puppet.encode, threading.Event()

        def slow(rows: Sequence[Any]) -> list[Encoded]:
            time.sleep(0.05)
            return encode(rows)

        def held(rows: Sequence[Any]) -> list[Encoded]:
            release.wait(10)
            return encode(rows)

        puppet.go.set()
        puppet.encode = slow  # type: ignore[method-assign]
        for _ in range(20):
            await batcher.predict(rows("slow"), {})
        assert batcher._wait_s() == 0
        assert 0.02 < batcher._seconds_per_encoding < 1
        puppet.encode = held  # type: ignore[method-assign]
        waiting = [batcher.predict(rows("a", "b", "c"), {}) for _ in range(3)]
        while batcher._wait_s() < 1:
            waiting.append(batcher.predict(rows("d"), {}))
        with pytest.raises(QueueFullError):
            batcher.predict(rows("one too many"), {})
        waiting[-1].cancel()
        release.set()
        await asyncio.gather(*waiting[:-1])
        assert batcher._num_encoded == batcher._num_accepted

    play(scene, request_timeout_s=1.0)
