"""Blocks of keys and values that sequences with a common beginning share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.tasks import KV_BLOCK_SIZE, GenerationRequest
from fastserve_server.generation.jobs import TextSequence
from fastserve_server.generation.kv_blocks import KVBlockPool

SYSTEM = list(range(2 * KV_BLOCK_SIZE))


def sequence(tokens: Sequence[int]) -> TextSequence:
    nobody: Any = None  # neither streams nor decodes here
    return TextSequence(GenerationRequest(tokens, 4), nobody, nobody, np.random.default_rng(0))


def compute(pool: KVBlockPool, text: TextSequence) -> int:
    """Run all tokens of a text as the generator does; return how many the model had to read."""
    if not text.blocks:
        pool.reuse(text)
    read = text.num_pending_tokens
    assert pool.grow(text, len(text.tokens))
    text.num_cached_tokens = len(text.tokens)
    pool.publish(text)
    return read


def test_a_common_beginning_is_read_once() -> None:
    pool = KVBlockPool(8)
    first, second, third = sequence([*SYSTEM, 1, 2]), sequence([*SYSTEM, 3]), sequence([5, *SYSTEM])
    assert [compute(pool, text) for text in (first, second, third)] == [66, 1, 65]
    assert first.blocks[:2] == second.blocks[:2]
    assert first.blocks[2] != second.blocks[2]
    assert not set(third.blocks) & {*first.blocks, *second.blocks}
    assert pool.used == 7
    for text in (first, second, third):
        pool.free(text)
    assert pool.used == 0
    assert compute(pool, sequence([*SYSTEM, 9])) == 1  # it outlives its texts
    assert compute(pool, sequence(SYSTEM)) == KV_BLOCK_SIZE  # the last token is computed for its logits


def test_blocks_that_nobody_uses_give_way_and_are_forgotten() -> None:
    pool = KVBlockPool(3)
    for text in (sequence([*SYSTEM, 1]), sequence([7] * 3 * KV_BLOCK_SIZE)):
        compute(pool, text)
        pool.free(text)
    assert compute(pool, sequence([*SYSTEM, 1])) == 65


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 80), st.booleans()), max_size=30))
def test_no_block_is_written_by_two_texts_or_lost(steps: list[tuple[int, int, bool]]) -> None:
    pool, active = KVBlockPool(6), list[TextSequence]()
    for kind, length, is_kept in steps:
        text = sequence(([kind] * 40 + list(range(60)))[:length])
        pool.reuse(text)
        if not pool.grow(text, length):
            pool.free(text)
            continue
        own = text.blocks[text.num_cached_tokens // KV_BLOCK_SIZE :]  # those that its passes write
        assert not {block for other in active for block in other.blocks} & set(own)
        text.num_cached_tokens = length
        pool.publish(text)
        active.append(text)
        if not is_kept:
            pool.free(active.pop(0))
        assert pool.used == len({block for other in active for block in other.blocks})
    for text in active:
        pool.free(text)
    assert pool.used == 0
    assert pool.grow(sequence([9]), 6 * KV_BLOCK_SIZE)


def test_blocks_that_are_not_shared_are_always_computed() -> None:
    pool = KVBlockPool(8, shares_prefixes=False)
    for _ in range(2):
        first, second = sequence([*SYSTEM, 1]), sequence([*SYSTEM, 1])
        assert [compute(pool, text) for text in (first, second)] == [len(SYSTEM) + 1] * 2
        assert not set(first.blocks) & set(second.blocks)
        for text in (first, second):
            pool.free(text)
    assert pool.used == 0
