"""What goes through the model in the next pass: which jobs, how many of each one's tokens, and who gives way."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve_core.tasks import SequenceChunk
from fastserve_server.generation.jobs import TextSequence
from fastserve_server.generation.kv_blocks import KVBlockPool

PASS_TOKENS = 256
"""Tokens of prompts in a pass: more would keep the texts that are being written waiting for longer."""


def schedule_batch(
    order: Sequence[TextSequence], pool: KVBlockPool, most: int
) -> list[tuple[TextSequence, SequenceChunk]]:
    """At most ``most`` pieces, of the jobs at the front.

    Where blocks are short, the jobs at the end give theirs back. The first job always runs: a job's tokens never need
    more blocks than there are.
    """
    chosen: list[tuple[TextSequence, SequenceChunk]] = []
    left = PASS_TOKENS
    for place, job in enumerate(order):
        if len(chosen) == most:
            break
        count = min(job.ahead, left) if job.ahead > 1 else 1
        if not count:
            continue
        if not _preempt(job, job.past + count, order[place + 1 :], pool):
            break
        if job.ahead > 1:
            left -= count
        piece = SequenceChunk(job.tokens[job.past : job.past + count], job.past, tuple(job.blocks))
        chosen.append((job, piece))
    return chosen


def _preempt(job: TextSequence, tokens: int, behind: Sequence[TextSequence], pool: KVBlockPool) -> bool:
    while not pool.grow(job, tokens):
        last = next((one for one in reversed(behind) if one.blocks), None)
        if last is None:
            return False
        pool.free(last)
    return True
