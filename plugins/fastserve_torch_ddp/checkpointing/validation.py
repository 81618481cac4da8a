"""Evaluation on the validation split, and the state of early stopping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fastserve_core.inference import length_batches
from fastserve_core.tasks import Arrays, Encoded, Task, select_outputs
from fastserve_torch_ddp.build import BatchCollator
from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.ops.precision import Precision


@dataclass
class TrainState:
    """The progress of a training; the metadata of a checkpoint.

    Attributes:
        step: The number of steps taken.
        best: The best value of the task's objective, or ``None`` before the first evaluation.
        best_scores: The scores of that evaluation.
        evals_without_improvement: The number of evaluations since then.
    """

    step: int = 0
    best: float | None = None
    best_scores: dict[str, float] = field(default_factory=dict)
    evals_without_improvement: int = 0

    def update(self, objective: float, scores: dict[str, float]) -> bool:
        """Record the result of an evaluation, and return whether it is the best so far."""
        if self.best is not None and objective <= self.best:
            self.evals_without_improvement += 1
            return False
        self.best, self.best_scores, self.evals_without_improvement = objective, scores, 0
        return True


def evaluate(
    model: nn.Module,
    task: Task,
    examples: Sequence[Encoded],
    collate: BatchCollator,
    precision: Precision,
) -> dict[str, float]:
    """Score a model; each rank computes its share of the examples, and all ranks return the same scores.

    Args:
        model: The model, unwrapped.
        task: The task, which computes statistics and scores.
        examples: The examples of all ranks.
        collate: The collator of batches.
        precision: The types to compute in.

    Returns:
        The scores by name.
    """
    return task.score(collect_statistics(model, task, examples, collate, precision))


def collect_statistics(
    model: nn.Module,
    task: Task,
    examples: Sequence[Encoded],
    collate: BatchCollator,
    precision: Precision,
    summarize: Callable[[Arrays, Sequence[Encoded]], list[Any]] | None = None,
) -> list[Any]:
    """Return the task's statistics of examples; the arguments are those of ``evaluate``.

    A part of the examples has statistics too, but perhaps no scores: rows may lack windows, and labels may be missing.
    ``summarize`` returns those of a batch, by default ``batch_statistics`` of the task.
    """
    summarize = summarize or task.batch_statistics
    model.eval()
    rank, world = collectives.get_rank(), collectives.get_world_size()
    local = [examples[index] for index in range(rank, len(examples), world)]
    statistics: list[Any] = []
    with torch.no_grad(), precision.context(collate.device):
        for indices in length_batches(local, task.score_batch_size):
            rows = [local[index] for index in indices]
            outputs = task.validation_outputs(model, collate(rows, targets=True), rows)
            arrays = {
                name: value.float().cpu().numpy() for name, value in select_outputs(outputs, task.outputs).items()
            }
            statistics += summarize(arrays, rows)
    model.train()
    gathered: list[list[Any]] = [[] for _ in range(world)]
    dist.all_gather_object(gathered, statistics)
    return [item for rank_statistics in gathered for item in rank_statistics]
