"""Which waiting inputs the next engine pass takes."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

PASS_TOKENS = 32.0
"""What an engine pass costs beside its tokens, in tokens, before it is known: MiniLM takes 7.5 ms for 1 x 32 tokens and
111 ms for 32 x 32 with torch (2.0 and 27.7 ms with OpenVINO INT8), so 37 to 42 tokens' worth are the pass itself."""
LEAST, MOST = 8.0, 512.0
DECAY = 0.98
"""What a pass counts for less than the one after it: the last fifty or so decide."""
MIN_SAMPLES, MIN_RELATIVE_VARIANCE = 8, 0.01
"""How many passes, and how far apart in their tokens, say something."""
LENGTH_MULTIPLE = 4
"""Lengths within it count as one, for the OpenVINO engine rounds them up. With an engine that does not, more inputs in
a pass make up for what is padded."""
SIZES = frozenset(size * 2**power for size in (2, 3) for power in range(12)) | {1}
"""How many inputs a pass takes where others have to wait anyway: engines prepare themselves for each new shape.
Seen for MiniLM on OpenVINO and a processor with AMX: the first pass of a shape takes 60 ms, the next 43; INT8, 107
and 43. A server in INT8 answered 454 requests a second in its first seconds, and 326 with passes of any size."""


def round_up(length: int) -> int:
    """The length rounded up to a ``LENGTH_MULTIPLE``."""
    return length + -length % LENGTH_MULTIPLE


class Entry(NamedTuple, Generic[T]):
    """An input that waits."""

    item: T
    length: int
    group: Hashable


class BatchCostModel:
    """``tokens`` is what an engine pass costs beside its tokens, in tokens, learned from the passes that were made."""

    def __init__(self) -> None:
        self.tokens = PASS_TOKENS
        self._passes = 0
        self._sums: tuple[float, ...] = (0.0,) * 5

    def update(self, tokens: int, seconds: float) -> None:
        """A pass of so many tokens, padding and all: the line of least squares through all of them says the cost."""
        self._passes += 1
        news = (1.0, tokens, seconds, tokens * tokens, tokens * seconds)
        self._sums = tuple(DECAY * old + new for old, new in zip(self._sums, news, strict=True))
        weight, x, y, xx, xy = self._sums
        spread, slope = weight * xx - x * x, weight * xy - x * y
        if self._passes >= MIN_SAMPLES and spread > MIN_RELATIVE_VARIANCE * x * x and slope > 0:
            self.tokens = min(MOST, max(LEAST, (y * xx - x * xy) / slope))


class LengthQueue(Generic[T]):
    """Inputs in the order they came, and by length within each group that may share a pass. Not thread-safe."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry[T]] = {}
        self._by_length: dict[Hashable, list[tuple[int, int]]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, item: T, length: int, group: Hashable = None) -> int:
        """Let an input of that many tokens wait; returns the number to remove it by."""
        number = self._next
        self._next += 1
        self._entries[number] = Entry(item, length, group)
        insort(self._by_length.setdefault(group, []), (length, number))
        return number

    def remove(self, number: int) -> bool:
        """Forget an input; false when it was taken before."""
        entry = self._entries.pop(number, None)
        if entry is None:
            return False
        order = self._by_length[entry.group]
        del order[bisect_left(order, (entry.length, number))]
        if not order:
            del self._by_length[entry.group]
        return True

    def oldest(self) -> T:
        """The input that has waited longest."""
        return next(iter(self._entries.values())).item

    def take(self, most: int, pass_tokens: float = PASS_TOKENS) -> list[T]:
        """The oldest input and up to ``most`` - 1 of its group that are near it in length.

        The oldest is always among them, so an input waits for no more passes than there were inputs before it.
        Another joins as long as padding for it costs less than each has to bear of the pass, which costs
        ``pass_tokens``: it would do as well in a pass with others. Where not all are taken, one of ``SIZES`` are.
        """
        number, oldest = next(iter(self._entries.items()))
        order = self._by_length[oldest.group]
        place = bisect_left(order, (oldest.length, number))
        start, end = window(order, place, most, pass_tokens)
        taken = order[start:end]
        del order[start:end]
        if not order:
            del self._by_length[oldest.group]
        return [self._entries.pop(one).item for _, one in taken]


def window(order: list[tuple[int, int]], place: int, most: int, pass_tokens: float) -> tuple[int, int]:
    """The slice round ``place`` of a list sorted by length, grown on the side that pads less."""
    start, end = place, place + 1
    usual = start, end
    while end - start < most:
        longest, bearable = order[end - 1][0], pass_tokens / (end - start)
        shorter = longest - order[start - 1][0] if start else None
        longer = (order[end][0] - longest) * (end - start) if end < len(order) else None
        if shorter is not None and shorter <= bearable and (longer is None or shorter <= longer):
            start -= 1
        elif longer is not None and longer <= bearable:
            end += 1
        else:
            break
        if end - start in SIZES:
            usual = start, end
    return usual if end - start < len(order) else (start, end)
