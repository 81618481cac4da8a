"""Language models with integer weights, rounded as texts of the training split want it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fastserve_core.tasks import Row, Task
from fastserve_neural_compressor.job import QuantizeJob
from fastserve_neural_compressor.weight_only import quantize_weights

BLOCK = 256
"""Tokens that the methods which look at texts see at once."""
DEFAULT = "rtn"


def quantize(job: QuantizeJob) -> None:
    """Write the engine's files; raises ``ExportError``."""
    options, model = job.options, job.floats()
    method = options.method or DEFAULT
    longest = min(BLOCK, getattr(model.config, "max_position_embeddings", BLOCK))
    blocks = [] if method == DEFAULT else calibration(job.task, job.model, job.sample(), longest)
    quantize_weights(model, job.folder, options.bits, options.group_size, method, blocks)


def calibration(task: Task, model: Path, rows: Sequence[Row], longest: int) -> list[torch.Tensor]:
    """The rows' tokens one after another, in blocks (1, length) of one length, which is ``longest`` if they suffice."""
    ids = [one for row in task.encoder(model)(rows) for one in row.inputs["input_ids"]]
    length = min(longest, len(ids))
    return [torch.tensor([ids[start : start + length]]) for start in range(0, len(ids) - length + 1, length)]
