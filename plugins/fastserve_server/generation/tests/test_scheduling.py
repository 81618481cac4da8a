"""The order of the jobs, without a model: who goes first, who gives way, and that nobody waits for ever."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve_core.tasks import KV_BLOCK_SIZE, GenerationRequest
from fastserve_server.generation.jobs import TextSequence, TokenStream
from fastserve_server.generation.kv_blocks import KVBlockPool, blocks_needed
from fastserve_server.generation.passes import MAX_PROMPT_TOKENS, schedule_batch
from fastserve_server.generation.scheduling import QUANTUM, STARVATION_S, FCFSScheduler, Scheduler, SkipJoinMLFQ
from fastserve_server.generation.stop_strings import StopStringFilter
from fastserve_server.generation.tests.test_stop_strings import Parts


def job(prompt: int, most: int = 1000) -> TextSequence:
    text_filter = StopStringFilter(Parts([]), ())
    return TextSequence(GenerationRequest([1] * prompt, most), TokenStream(), text_filter, np.random.default_rng(0))


def write(scheduler: Scheduler, one: TextSequence, tokens: int, now: float = 0.0) -> None:
    for _ in range(tokens):
        scheduler.on_step(one, 0, 1, now)


def test_first_come_first_served() -> None:
    scheduler = FCFSScheduler()
    first, second = job(500), job(1)
    scheduler.add(first, 0.0)
    scheduler.add(second, 0.0)
    write(scheduler, first, 5000)
    assert scheduler.order(1e9) == [first, second]
    scheduler.remove(first)
    assert scheduler.order(0.0) == [second]


def test_who_has_had_its_quantum_lets_others_before_it() -> None:
    scheduler = SkipJoinMLFQ()
    long, short = job(8), job(8)
    scheduler.add(long, 0.0)
    write(scheduler, long, int(QUANTUM) - 1)
    scheduler.add(short, 1.0)
    assert scheduler.order(1.0) == [long, short]
    write(scheduler, long, 1, 1.0)
    assert scheduler.order(1.0) == [short, long]
    write(scheduler, short, int(QUANTUM), 1.0)
    assert scheduler.order(1.0) == [long, short]  # one level below, the one that came there first
    write(scheduler, long, 2 * int(QUANTUM), 1.0)
    assert scheduler.order(1.0) == [short, long]


def test_a_long_prompt_does_not_push_short_ones_aside() -> None:
    scheduler = SkipJoinMLFQ()
    middle, long, short = job(20), job(8 * 5 * int(QUANTUM)), job(20)
    for one in (long, middle):
        scheduler.add(one, 0.0)
    assert scheduler.order(0.0) == [middle, long]
    scheduler.add(short, 0.0)
    assert scheduler.order(0.0) == [middle, short, long]


def test_a_text_that_waited_for_long_begins_again_at_the_top() -> None:
    scheduler = SkipJoinMLFQ()
    long = job(8)
    scheduler.add(long, 0.0)
    write(scheduler, long, 10 * int(QUANTUM), 0.0)
    others = [job(8) for _ in range(3)]
    for one in others:
        scheduler.add(one, STARVATION_S)
    assert scheduler.order(STARVATION_S)[-1] is long
    later = job(8)
    order = scheduler.order(STARVATION_S + 1)
    scheduler.add(later, STARVATION_S + 1)
    assert order.index(long) == len(others)
    assert scheduler.order(STARVATION_S + 1) == [*others, long, later]


PROMPTS = st.lists(st.integers(1, 5 * KV_BLOCK_SIZE), min_size=1, max_size=8)


@given(PROMPTS, st.integers(1, 6), st.integers(0, 12))
@settings(deadline=None)  # the first examples are slow on a busy machine
def test_every_job_ends_and_blocks_have_one_owner(prompts: list[int], most: int, spare: int) -> None:
    jobs = [job(prompt, most=KV_BLOCK_SIZE + 3) for prompt in prompts]
    pool, scheduler = KVBlockPool(max(blocks_needed(one.max_length) for one in jobs) + spare), SkipJoinMLFQ()
    for one in jobs:
        scheduler.add(one, 0.0)
    left, passes = set(jobs), 0
    while left:
        passes += 1
        chosen = schedule_batch(scheduler.order(0.0), pool, most)
        assert 1 <= len(chosen) <= most
        assert sum(len(piece.tokens) for _, piece in chosen if len(piece.tokens) > 1) <= MAX_PROMPT_TOKENS
        owned = [block for one in left for block in one.blocks]
        assert len(set(owned)) == len(owned) == pool.used
        for one, piece in chosen:
            assert one.num_cached_tokens == piece.num_cached_tokens
            assert blocks_needed(piece.num_cached_tokens + len(piece.tokens)) <= len(piece.blocks)
            assert set(piece.blocks) <= set(one.blocks), "its blocks were taken back in the same pass"
            one.num_cached_tokens += len(piece.tokens)
            if one.num_pending_tokens:
                continue
            one.append(1)
            scheduler.on_step(one, 0, 1, 0.0)
            if one.num_generated == one.request.max_tokens:
                scheduler.remove(one)
                pool.free(one)
                left.remove(one)
    assert pool.used == 0
    assert passes < 20000
