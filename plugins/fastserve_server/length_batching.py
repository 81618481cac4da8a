"""Choice of the waiting inputs that share the next engine pass."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

PASS_TOKENS = 32.0
"""Initial estimate of the fixed cost of an engine pass, in tokens: MiniLM takes 7.5 ms for 1 x 32 tokens and 111 ms for
32 x 32 with torch (2.0 and 27.7 ms with OpenVINO INT8), so the fixed cost is that of 37 to 42 tokens."""
MIN_PASS_TOKENS, MAX_PASS_TOKENS = 8.0, 512.0
DECAY = 0.98
"""Weight of a pass relative to the next one: the estimate rests on the last fifty or so."""
MIN_SAMPLES, MIN_RELATIVE_VARIANCE = 8, 0.01
"""Number of passes, and relative variance of their numbers of tokens, that an estimate needs."""
LENGTH_MULTIPLE = 4
"""Lengths are rounded up to a multiple of this, as the OpenVINO engine does. For an engine that does not, the larger
batches compensate for the padding."""
BATCH_SIZES = frozenset(size * 2**power for size in (2, 3) for power in range(12)) | {1}
"""Numbers of inputs in a pass if other inputs wait anyway, because engines prepare for each new shape. Measured for
MiniLM on OpenVINO and a CPU with AMX: the first pass of a shape takes 60 ms, the next 43 ms; INT8, 107 and 43 ms. An
INT8 server answered 454 requests per second in its first seconds, and 326 with passes of any size."""


def round_up(length: int) -> int:
    """Return the length rounded up to a multiple of ``LENGTH_MULTIPLE``."""
    return length + -length % LENGTH_MULTIPLE


class Entry(NamedTuple, Generic[T]):
    """A waiting input, its length in tokens, and the group that may share a pass with it."""

    item: T
    length: int
    group: Hashable


class BatchCostModel:
    """Estimates ``tokens``, the fixed cost of an engine pass in tokens, by a weighted linear regression."""

    def __init__(self) -> None:
        self.tokens = PASS_TOKENS
        self._num_passes = 0
        self._sums: tuple[float, ...] = (0.0,) * 5

    def update(self, tokens: int, seconds: float) -> None:
        """Add a pass.

        Args:
            tokens: Number of tokens, with padding.
            seconds: Duration of the pass.
        """
        self._num_passes += 1
        terms = (1.0, tokens, seconds, tokens * tokens, tokens * seconds)
        self._sums = tuple(DECAY * total + term for total, term in zip(self._sums, terms, strict=True))
        weight, x, y, xx, xy = self._sums
        variance, slope = weight * xx - x * x, weight * xy - x * y
        if self._num_passes >= MIN_SAMPLES and variance > MIN_RELATIVE_VARIANCE * x * x and slope > 0:
            self.tokens = min(MAX_PASS_TOKENS, max(MIN_PASS_TOKENS, (y * xx - x * xy) / slope))


class LengthQueue(Generic[T]):
    """Queue of inputs in order of arrival, indexed by length within each group. Not thread-safe."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry[T]] = {}
        self._by_length: dict[Hashable, list[tuple[int, int]]] = {}
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, item: T, length: int, group: Hashable = None) -> int:
        """Add an input.

        Args:
            item: The input.
            length: Its number of tokens.
            group: Only inputs of the same group share a pass.

        Returns:
            The key to remove it by.
        """
        entry_id = self._next_id
        self._next_id += 1
        self._entries[entry_id] = Entry(item, length, group)
        insort(self._by_length.setdefault(group, []), (length, entry_id))
        return entry_id

    def remove(self, entry_id: int) -> bool:
        """Remove an input; false if it has been taken or removed."""
        entry = self._entries.pop(entry_id, None)
        if entry is None:
            return False
        order = self._by_length[entry.group]
        del order[bisect_left(order, (entry.length, entry_id))]
        if not order:
            del self._by_length[entry.group]
        return True

    def oldest(self) -> T:
        """Return the input that has waited longest."""
        return next(iter(self._entries.values())).item

    def take(self, max_count: int, pass_tokens: float = PASS_TOKENS) -> list[T]:
        """Remove the inputs of the next pass: the oldest one, and inputs of its group with a similar length.

        The oldest is always included, so an input waits for at most as many passes as there were inputs before it.
        Another input joins as long as its padding costs less than its share of the pass's fixed cost, because in a
        pass with others it would cost as much. If inputs remain, the number is one of ``BATCH_SIZES``.

        Args:
            max_count: Maximum number of inputs.
            pass_tokens: Fixed cost of a pass, in tokens.
        """
        entry_id, oldest = next(iter(self._entries.items()))
        order = self._by_length[oldest.group]
        index = bisect_left(order, (oldest.length, entry_id))
        start, end = find_window(order, index, max_count, pass_tokens)
        batch = order[start:end]
        del order[start:end]
        if not order:
            del self._by_length[oldest.group]
        return [self._entries.pop(key).item for _, key in batch]


def find_window(order: list[tuple[int, int]], index: int, max_count: int, pass_tokens: float) -> tuple[int, int]:
    """Grow a slice around ``index``, each time on the side that needs less padding.

    Args:
        order: Pairs of length and key, sorted.
        index: Index of the entry that the slice must contain.
        max_count: Maximum size of the slice.
        pass_tokens: Fixed cost of a pass, in tokens.

    Returns:
        Start and end of the slice.
    """
    start, end = index, index + 1
    preferred = start, end
    while end - start < max_count:
        longest, budget = order[end - 1][0], pass_tokens / (end - start)
        shorter = longest - order[start - 1][0] if start else None
        longer = (order[end][0] - longest) * (end - start) if end < len(order) else None
        if shorter is not None and shorter <= budget and (longer is None or shorter <= longer):
            start -= 1
        elif longer is not None and longer <= budget:
            end += 1
        else:
            break
        if end - start in BATCH_SIZES:
            preferred = start, end
    return preferred if end - start < len(order) else (start, end)
