"""Looking at the validation split: scores, and how long there was no gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fastserve_core.inference.predictor import by_length
from fastserve_core.tasks.task import Encoded, Task
from fastserve_torch_ddp.assembly import Feed
from fastserve_torch_ddp.kernels.numbers import Numbers
from fastserve_torch_ddp.ranks import exchange

BATCH = 64


@dataclass
class Progress:
    """Where training stands; what a checkpoint holds besides tensors."""

    step: int = 0
    best: float | None = None
    best_scores: dict[str, float] = field(default_factory=dict)
    without_gain: int = 0

    def take(self, objective: float, scores: dict[str, float]) -> bool:
        """Note a look's outcome; true when it is the best so far."""
        if self.best is not None and objective <= self.best:
            self.without_gain += 1
            return False
        self.best, self.best_scores, self.without_gain = objective, scores, 0
        return True


def measure(
    model: nn.Module, task: Task, examples: Sequence[Encoded], feed: Feed, numbers: Numbers, targets: bool
) -> dict[str, float]:
    """The task's measures over the examples; each rank computes its share, and all get the whole.

    ``targets``: the model is given its targets too, as one that computes outputs only where there are some needs.
    """
    model.eval()
    rank, world = exchange.ranks()
    mine = [examples[place] for place in range(rank, len(examples), world)]
    evidence: list[Any] = []
    with torch.no_grad(), numbers.context(feed.device):
        for places in by_length(mine, BATCH):
            rows = [mine[place] for place in places]
            outputs = model(**feed(rows, targets))
            arrays = {name: one.float().cpu().numpy() for name, one in outputs.items() if name.endswith("logits")}
            evidence += task.evidence(arrays, rows)
    model.train()
    shares: list[list[Any]] = [[] for _ in range(world)]
    dist.all_gather_object(shares, evidence)
    return task.score([one for part in shares for one in part])
