"""Which blocks of keys and values are whose."""

from __future__ import annotations

from fastserve_core.tasks import KV_BLOCK_SIZE
from fastserve_server.generation.jobs import TextSequence


def blocks_needed(tokens: int) -> int:
    """Blocks for so many tokens."""
    return -(-tokens // KV_BLOCK_SIZE)


class KVBlockPool:
    """All blocks of a stepper."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count))

    @property
    def used(self) -> int:
        return self.count - len(self._free)

    def grow(self, job: TextSequence, tokens: int) -> bool:
        """Give the job blocks for its first ``tokens``; False, and none given, where there are too few."""
        missing = blocks_needed(tokens) - len(job.blocks)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            job.blocks.append(self._free.pop())
        return True

    def free(self, job: TextSequence) -> None:
        """Whatever was computed for the job is to be computed again, should it go on."""
        self._free += job.blocks
        job.blocks, job.past = [], 0
