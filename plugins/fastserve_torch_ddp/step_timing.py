"""The times of a training's parts, measured by its ranks: some real steps and a part of an evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fastserve_core.tasks import Encoded
from fastserve_torch_ddp.checkpointing.validation import TrainState, collect_statistics
from fastserve_torch_ddp.data.batches import Indices
from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.trainer import Trainer

PERCENTILES = (15, 50, 85)
"""The batches to time, among those of an epoch in the order of their padded tokens."""
MIN_SECONDS, MAX_PASSES = 1.0, 5


def time_steps(trainer: Trainer) -> dict[str, float]:
    """Time steps and an evaluation; all ranks call it together.

    Args:
        trainer: A trainer that has not begun; its weights change.

    Returns:
        ``epoch_steps`` and ``epoch_seconds``; ``preparation_seconds``, which the first steps of each shape take longer;
        ``evaluation_seconds`` of the whole validation split; and ``seconds``, the duration of the measurement.
    """
    begin = time.monotonic()
    trainer.progress = TrainState()
    trainer.method.model.train()
    examples = trainer.schedule.examples(0)
    batches = trainer.schedule.batches(examples, 0)
    shapes = batch_shapes(examples, batches)
    sizes = shapes.prod(axis=1)
    order = np.argsort(sizes, kind="stable")
    picks = sorted({int(order[percentile * (len(order) - 1) // 100]) for percentile in PERCENTILES})
    chosen = [batches[pick] for pick in picks]
    first = _time_pass(trainer, examples, chosen)
    longest = max(1e-6, collectives.all_reduce_max(torch.tensor(sum(first))))  # the ranks take the same number of steps
    passes = min(MAX_PASSES, max(1, math.ceil(MIN_SECONDS / longest)))
    times = np.mean([_time_pass(trainer, examples, chosen) for _ in range(passes)], axis=0)
    # the very first step prepares more than its shape, so the median
    preparation = max(0.0, float(np.median(np.array(first) - times)))
    return {
        "epoch_steps": len(batches),
        "preparation_seconds": preparation * len(np.unique(shapes, axis=0)),
        "epoch_seconds": float(predict_seconds(sizes[picks], times, sizes).sum()),
        "evaluation_seconds": _time_evaluation(trainer),
        "seconds": time.monotonic() - begin,
    }


def batch_shapes(examples: Sequence[Encoded], batches: Sequence[Indices]) -> NDArray[np.float64]:
    """Return the number of rows and of tokens in the longest row of each batch, of shape (batches, 2)."""
    known = getattr(examples, "lengths", None)
    lengths = np.asarray(known if known is not None else [len(example) for example in examples])
    return np.array([(len(batch), lengths[batch].max()) for batch in batches], dtype=np.float64)


def predict_seconds(
    sizes: NDArray[np.float64], times: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Predict the times of steps from those of a few, by a line over the padded tokens.

    Args:
        sizes: Padded tokens of the timed steps.
        times: Their seconds.
        others: Padded tokens of other steps.
    """
    if len(set(sizes)) < 2:
        return np.full(len(others), float(times.mean()))
    slope, constant = np.polyfit(sizes, times, 1)
    if slope <= 0:  # the overhead of a step, or other processes, matter more than its size
        return np.full(len(others), float(times.mean()))
    seconds: NDArray[np.float64] = np.maximum(slope * others + constant, 0.5 * times.min())
    return seconds


def _time_pass(trainer: Trainer, examples: Sequence[Encoded], batches: Sequence[Indices]) -> list[float]:
    times = []
    for batch in batches:
        begin = time.monotonic()
        trainer.take_step(examples, batch)
        trainer.progress.step += 1
        times.append(time.monotonic() - begin)
    return times


def _time_evaluation(trainer: Trainer) -> float:
    """Return the time of a whole evaluation, from that of two batches for each rank, of short and of long rows."""
    validation, count = trainer.validation, trainer.task.score_batch_size * collectives.get_world_size()
    order = sorted(range(len(validation)), key=lambda number: len(validation[number]))
    starts = [max(0, quarter * len(order) // 4 - count // 2) for quarter in (1, 3)]
    numbers = dict.fromkeys(number for start in starts for number in order[start : start + count])
    sample = [validation[number] for number in numbers]

    def run(examples: Sequence[Encoded]) -> float:
        begin = time.monotonic()
        collect_statistics(trainer.method.model, trainer.task, examples, trainer.collate, trainer.precision)
        return time.monotonic() - begin

    run(sample[: len(sample) // 4 + 1])
    return run(sample) * len(validation) / len(sample)
