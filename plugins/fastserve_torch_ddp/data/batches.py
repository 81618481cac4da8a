"""Which examples are in which batch: a pure function of the seed and the epoch, so that any step can be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastserve_core.tasks import Encoded, Task

SORT_POOL_BATCHES = 50
"""Batches are cut from pools of this many batches' rows, sorted by length: little padding, much chance."""

Indices = NDArray[np.int64]


def epoch_batches(lengths: Indices, size: int, tokens: int | None, seed: int, epoch: int) -> list[Indices]:
    """The places of each batch of an epoch; each place is in exactly one, those of a batch are about as long.

    A batch has ``size`` places, or where ``tokens`` is given as many as have no more tokens when padded to the
    longest (at least one).
    """
    draw = np.random.default_rng((seed, epoch))
    order = draw.permutation(len(lengths))
    if tokens is not None:
        size = max(1, int(tokens / max(1.0, float(lengths.mean()))))
    batches: list[Indices] = []
    for start in range(0, len(order), SORT_POOL_BATCHES * size):
        pool = order[start : start + SORT_POOL_BATCHES * size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        ends = _ends(lengths[pool], size, tokens)
        batches += np.split(pool, ends[:-1])
    return [batches[number] for number in draw.permutation(len(batches))]


def _ends(ordered: Indices, size: int, tokens: int | None) -> list[int]:
    """Where batches end in a pool whose lengths rise."""
    if tokens is None:
        return [*range(size, len(ordered), size), len(ordered)]
    ends, start = [], 0
    while start < len(ordered):
        costs = ordered[start:] * np.arange(1, len(ordered) - start + 1)
        start += max(1, int(np.searchsorted(costs, tokens, side="right")))
        ends.append(start)
    return ends


def shard(batch: Indices, part: int, parts: int) -> Indices:
    """One part of a batch; a batch with fewer rows than parts repeats some, as every rank must take a step."""
    return np.resize(batch, max(len(batch), parts))[part::parts]


class BatchSchedule:
    """All steps of a training in their order.

    ``ends`` holds the number of steps that are done at the end of each epoch.
    """

    def __init__(
        self, rows: Sequence[Encoded], task: Task, options: Mapping[str, Any], seed: int, steps: int | None
    ) -> None:
        self.rows, self.task, self.options, self.seed = rows, task, options, seed
        self.ends: list[int] = []
        for epoch in range(int(options["epochs"])):
            self.ends.append((self.ends[-1] if self.ends else 0) + len(self.batches(self.examples(epoch), epoch)))
            if steps is not None and self.ends[-1] >= steps:
                break
        self.total = min(steps or self.ends[-1], self.ends[-1])

    def examples(self, epoch: int) -> Sequence[Encoded]:
        return self.task.examples(self.rows, f"{self.seed}-{epoch}")

    def batches(self, examples: Sequence[Encoded], epoch: int) -> list[Indices]:
        found = getattr(examples, "lengths", None)
        lengths = np.asarray(found if found is not None else [len(one) for one in examples], dtype=np.int64)
        return epoch_batches(lengths, self.options["batch_size"], self.options["batch_tokens"], self.seed, epoch)

    def epoch_at(self, step: int) -> float:
        """How many epochs are done after that many steps."""
        begun = 0
        for epoch, end in enumerate(self.ends):
            if step <= end:
                return epoch + (step - begun) / (end - begun)
            begun = end
        return float(len(self.ends))

    def steps(self, begin: int) -> Iterator[tuple[Sequence[Encoded], Indices]]:
        """From one step to the last: the epoch's examples, and which of them are in the batch."""
        step = 0
        for epoch, end in enumerate(self.ends):
            if begin >= end:
                step = end
                continue
            examples = self.examples(epoch)
            for batch in self.batches(examples, epoch):
                if step >= self.total:
                    return
                if step >= begin:
                    yield examples, batch
                step += 1
