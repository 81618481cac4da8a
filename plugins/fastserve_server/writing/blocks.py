"""Which blocks of keys and values are whose."""

from __future__ import annotations

from fastserve_core.tasks.generation import BLOCK
from fastserve_server.writing.jobs import Job


def needed(tokens: int) -> int:
    """Blocks for so many tokens."""
    return -(-tokens // BLOCK)


class Pool:
    """All blocks of a stepper."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count))

    @property
    def used(self) -> int:
        return self.count - len(self._free)

    def grow(self, job: Job, tokens: int) -> bool:
        """Give the job blocks for its first ``tokens``; False, and none given, where there are too few."""
        missing = needed(tokens) - len(job.blocks)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            job.blocks.append(self._free.pop())
        return True

    def take_back(self, job: Job) -> None:
        """Whatever was computed for the job is to be computed again, should it go on."""
        self._free += job.blocks
        job.blocks, job.past = [], 0
