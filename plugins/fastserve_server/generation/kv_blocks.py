"""Allocation of the KV cache's blocks to sequences, which share those of a common beginning."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

import numpy as np

from fastserve_core.tasks import KV_BLOCK_SIZE
from fastserve_server.generation.jobs import TextSequence

KEY_BYTES = 16


def blocks_needed(tokens: int) -> int:
    """Return the number of blocks for so many tokens."""
    return -(-tokens // KV_BLOCK_SIZE)


class KVBlockPool:
    """Allocates the ``count`` blocks of a decode engine.

    A block that is full is found by its adapter, its tokens and all before them, as in vLLM's prefix cache (Kwon et al.
    2023). So a sequence that begins as an earlier one, with the same system message or the turns so far, reuses its
    keys and values. Blocks that no sequence uses keep their contents until others need them, the longest unused first.
    """

    def __init__(self, count: int, shares_prefixes: bool = True) -> None:
        self.count, self._shares_prefixes = count, shares_prefixes
        self._free = list(range(count))
        self._references: Counter[int] = Counter()
        self._by_key: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}
        self._unused: dict[int, None] = {}
        """The blocks with contents that no sequence uses, in the order in which they were released."""

    @property
    def used(self) -> int:
        """Number of blocks that sequences use."""
        return self.count - len(self._free) - len(self._unused)

    def grow(self, sequence: TextSequence, tokens: int) -> bool:
        """Allocate blocks for the first ``tokens`` tokens of a sequence.

        Returns:
            Whether there were enough free blocks; if not, none is allocated.
        """
        missing = blocks_needed(tokens) - len(sequence.blocks)
        if missing > len(self._free) + len(self._unused):
            return False
        for _ in range(missing):
            block = self._take()
            self._references[block] = 1
            sequence.blocks.append(block)
        return True

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        block = next(iter(self._unused))
        del self._unused[block], self._by_key[self._keys.pop(block)]
        return block

    def reuse(self, sequence: TextSequence) -> None:
        """Give a sequence without blocks those that hold its first tokens; at least one token is left to compute."""
        if not self._shares_prefixes:
            return
        for index in range((len(sequence.tokens) - 1) // KV_BLOCK_SIZE):
            block = self._by_key.get(_key(sequence, index))
            if block is None:
                break
            self._references[block] += 1
            self._unused.pop(block, None)
            sequence.blocks.append(block)
        sequence.num_cached_tokens = len(sequence.blocks) * KV_BLOCK_SIZE
        sequence.num_published_blocks = len(sequence.blocks)

    def publish(self, sequence: TextSequence) -> None:
        """Let other sequences find the blocks that a pass has filled, if they may."""
        if not self._shares_prefixes:
            return
        for index in range(sequence.num_published_blocks, sequence.num_cached_tokens // KV_BLOCK_SIZE):
            key, block = _key(sequence, index), sequence.blocks[index]
            if key not in self._by_key:
                self._by_key[key], self._keys[block] = block, key
            sequence.num_published_blocks = index + 1

    def free(self, sequence: TextSequence) -> None:
        """Release a sequence's blocks; keys and values that are lost are computed again if it continues."""
        for block in reversed(sequence.blocks):  # the end of a text is needed less often than its beginning
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._keys:
                self._unused[block] = None
            else:
                self._free.append(block)
        sequence.blocks, sequence.num_cached_tokens, sequence.num_published_blocks = [], 0, 0


def _key(sequence: TextSequence, index: int) -> bytes:
    """Return the key of a full block, which depends on the adapter and all tokens up to its end."""
    keys, first = sequence.block_keys, (sequence.request.adapter or "").encode()
    while len(keys) <= index:
        begin = len(keys) * KV_BLOCK_SIZE
        tokens = np.asarray(sequence.tokens[begin : begin + KV_BLOCK_SIZE], dtype=np.int64)
        keys.append(blake2b((keys[-1] if keys else first) + tokens.tobytes(), digest_size=KEY_BYTES).digest())
    return keys[index]
