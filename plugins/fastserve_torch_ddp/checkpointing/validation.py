"""Looking at the validation split: scores, and how long there was no gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fastserve_core.inference import length_batches
from fastserve_core.tasks import Encoded, Task
from fastserve_torch_ddp.build import BatchCollator
from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.ops.precision import Precision

BATCH = 64


@dataclass
class TrainState:
    """Where training stands; what a checkpoint holds besides tensors."""

    step: int = 0
    best: float | None = None
    best_scores: dict[str, float] = field(default_factory=dict)
    evals_without_improvement: int = 0

    def update(self, objective: float, scores: dict[str, float]) -> bool:
        """Note a look's outcome; true when it is the best so far."""
        if self.best is not None and objective <= self.best:
            self.evals_without_improvement += 1
            return False
        self.best, self.best_scores, self.evals_without_improvement = objective, scores, 0
        return True


def evaluate(
    model: nn.Module, task: Task, examples: Sequence[Encoded], feed: BatchCollator, numbers: Precision, targets: bool
) -> dict[str, float]:
    """The task's measures over the examples; each rank computes its share, and all get the whole.

    ``targets``: the model is given its targets too, as one that computes outputs only where there are some needs.
    """
    model.eval()
    rank, world = collectives.ranks()
    mine = [examples[place] for place in range(rank, len(examples), world)]
    evidence: list[Any] = []
    with torch.no_grad(), numbers.context(feed.device):
        for places in length_batches(mine, BATCH):
            rows = [mine[place] for place in places]
            outputs = model(**feed(rows, targets))
            arrays = {name: one.float().cpu().numpy() for name, one in outputs.items() if name.endswith("logits")}
            evidence += task.evidence(arrays, rows)
    model.train()
    shares: list[list[Any]] = [[] for _ in range(world)]
    dist.all_gather_object(shares, evidence)
    return task.score([one for part in shares for one in part])
