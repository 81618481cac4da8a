"""Selection of the sequences, and of their tokens, for the next pass through the model."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve_core.tasks import SequenceChunk
from fastserve_server.generation.jobs import TextSequence
from fastserve_server.generation.kv_blocks import KVBlockPool
from fastserve_server.generation.prompt_lookup import MAX_GUESSES_PER_PASS

MAX_PROMPT_TOKENS = 256
"""Maximum number of prompt tokens in a pass: more would delay the texts that are being generated."""


def schedule_batch(
    order: Sequence[TextSequence], pool: KVBlockPool, max_batch: int
) -> list[tuple[TextSequence, SequenceChunk]]:
    """Choose the chunks of the next pass.

    If the pool runs out of blocks, sequences at the end of the order lose theirs. The first sequence always runs,
    because one sequence never needs more blocks than the pool has.

    Args:
        order: All active sequences, the most urgent first.
        pool: Allocates the blocks.
        max_batch: Maximum number of chunks.

    Returns:
        Pairs of a sequence and its chunk.
    """
    batch: list[tuple[TextSequence, SequenceChunk]] = []
    budget = MAX_PROMPT_TOKENS
    for index, sequence in enumerate(order):
        if len(batch) == max_batch:
            break
        if not sequence.blocks:
            pool.reuse(sequence)
        pending, cached = sequence.num_pending_tokens, sequence.num_cached_tokens
        count = min(pending, budget) if pending > 1 else 1
        if not count:
            continue
        if not _allocate(sequence, cached + count, order[index + 1 :], pool):
            break
        if pending > 1:
            budget -= count
        guesses = sequence.guess(MAX_GUESSES_PER_PASS // len(order)) if pending == 1 else []
        if guesses and not pool.grow(sequence, cached + 1 + len(guesses)):
            guesses = []
        tokens, prompt = sequence.tokens[cached : cached + count] + guesses, len(sequence.request.prompt)
        blocks, adapter = tuple(sequence.blocks), sequence.request.adapter
        chunk = SequenceChunk(tokens, cached, blocks, prompt, adapter, len(guesses))
        batch.append((sequence, chunk))
    return batch


def _allocate(sequence: TextSequence, tokens: int, later: Sequence[TextSequence], pool: KVBlockPool) -> bool:
    """Allocate blocks for a sequence, and preempt later sequences if there are too few."""
    while not pool.grow(sequence, tokens):
        victim = next((candidate for candidate in reversed(later) if candidate.blocks), None)
        if victim is None:
            return False
        pool.free(victim)
    return True
