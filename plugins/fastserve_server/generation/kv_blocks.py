"""Allocation of the KV cache's blocks to sequences."""

from __future__ import annotations

from fastserve_core.tasks import KV_BLOCK_SIZE
from fastserve_server.generation.jobs import TextSequence


def blocks_needed(tokens: int) -> int:
    """Return the number of blocks for so many tokens."""
    return -(-tokens // KV_BLOCK_SIZE)


class KVBlockPool:
    """Allocates the ``count`` blocks of a decode engine."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count))

    @property
    def used(self) -> int:
        """Number of allocated blocks."""
        return self.count - len(self._free)

    def grow(self, sequence: TextSequence, tokens: int) -> bool:
        """Allocate blocks for the first ``tokens`` tokens of a sequence.

        Returns:
            Whether there were enough free blocks; if not, none is allocated.
        """
        missing = blocks_needed(tokens) - len(sequence.blocks)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            sequence.blocks.append(self._free.pop())
        return True

    def free(self, sequence: TextSequence) -> None:
        """Release a sequence's blocks; its keys and values are computed again if it continues."""
        self._free += sequence.blocks
        sequence.blocks, sequence.num_cached_tokens = [], 0
