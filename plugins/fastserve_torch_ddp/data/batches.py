"""Batches as a pure function of the seed and the epoch, so that training can resume at any step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastserve_core.tasks import Encoded, Task

SORT_POOL_BATCHES = 50
"""Batches are cut from pools of this many batches' rows, sorted by length: little padding, and enough randomness."""

Indices = NDArray[np.int64]


def epoch_batches(lengths: Indices, size: int, tokens: int | None, seed: int, epoch: int) -> list[Indices]:
    """Divide the rows of an epoch into batches of rows of similar length.

    Args:
        lengths: The number of tokens of each row, of shape (rows,).
        size: The number of rows of a batch.
        tokens: If not ``None``, bounds the tokens of a padded batch instead; a batch has at least one row.
        seed: The seed of the order.
        epoch: The number of the epoch, from 0.

    Returns:
        The row indices of each batch; each row is in exactly one batch.
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(lengths))
    if tokens is not None:
        size = max(1, int(tokens / max(1.0, float(lengths.mean()))))
    batches: list[Indices] = []
    for start in range(0, len(order), SORT_POOL_BATCHES * size):
        pool = order[start : start + SORT_POOL_BATCHES * size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        ends = _batch_ends(lengths[pool], size, tokens)
        batches += np.split(pool, ends[:-1])
    return [batches[index] for index in generator.permutation(len(batches))]


def _batch_ends(ascending: Indices, size: int, tokens: int | None) -> list[int]:
    """Return the end of each batch in a pool sorted by length."""
    if tokens is None:
        return [*range(size, len(ascending), size), len(ascending)]
    ends, start = [], 0
    while start < len(ascending):
        padded_tokens = ascending[start:] * np.arange(1, len(ascending) - start + 1)
        start += max(1, int(np.searchsorted(padded_tokens, tokens, side="right")))
        ends.append(start)
    return ends


def shard(batch: Indices, index: int, count: int) -> Indices:
    """Return one of ``count`` shards of a batch; a batch with fewer rows repeats some, as every rank takes a step."""
    return np.resize(batch, max(len(batch), count))[index::count]


class BatchSchedule:
    """All steps of a training in order.

    Args:
        rows: The encoded training rows.
        task: The task, which makes examples of rows.
        options: The trainer's options.
        seed: The seed of the order and of the examples.
        steps: The maximum number of steps, or ``None``.

    Attributes:
        epoch_ends: The number of steps at the end of each epoch.
        total: The number of steps.
    """

    def __init__(
        self, rows: Sequence[Encoded], task: Task, options: Mapping[str, Any], seed: int, steps: int | None
    ) -> None:
        self.rows, self.task, self.options, self.seed = rows, task, options, seed
        self.epoch_ends: list[int] = []
        end = 0
        for epoch in range(int(options["epochs"])):
            end += len(self.batches(self.examples(epoch), epoch))
            self.epoch_ends.append(end)
            if steps is not None and end >= steps:
                break
        self.total = min(steps or end, end)

    def examples(self, epoch: int) -> Sequence[Encoded]:
        """Return the examples of an epoch."""
        return self.task.examples(self.rows, f"{self.seed}-{epoch}")

    def batches(self, examples: Sequence[Encoded], epoch: int) -> list[Indices]:
        """Return the indices of the examples in each batch of an epoch."""
        known = getattr(examples, "lengths", None)
        lengths = np.asarray(known if known is not None else [len(example) for example in examples], dtype=np.int64)
        return epoch_batches(lengths, self.options["batch_size"], self.options["batch_tokens"], self.seed, epoch)

    def epoch_at(self, step: int) -> float:
        """Return the number of epochs, with fraction, after a number of steps."""
        start = 0
        for epoch, end in enumerate(self.epoch_ends):
            if step <= end:
                return epoch + (step - start) / (end - start)
            start = end
        return float(len(self.epoch_ends))

    def steps(self, begin: int) -> Iterator[tuple[Sequence[Encoded], Indices]]:
        """Yield the examples of the epoch and the indices of the batch for each step from ``begin`` to the last."""
        step = 0
        for epoch, end in enumerate(self.epoch_ends):
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
