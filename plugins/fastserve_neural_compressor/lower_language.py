"""The process that quantizes a language model's weights: load the model, quantize, write the engine's files."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fastserve_core.children import answer, event_writer
from fastserve_core.data import load
from fastserve_core.errors import BadModel, Unexportable
from fastserve_core.events import Progress
from fastserve_core.files import copy_tokenizer
from fastserve_core.predictor import load_task
from fastserve_core.task import Task
from fastserve_neural_compressor.weight_only import quantize_weights

BLOCK = 256
"""Tokens that the methods which look at texts see at once."""


def lower(
    model: str,
    data: str,
    task: tuple[str, Mapping[str, Any], Sequence[str]],
    draft: str,
    method: str,
    bits: int,
    group_size: int,
    rows: int,
    seed: int,
    events: str,
) -> None:
    """Write the quantized model into the draft folder."""
    tell = event_writer(events)
    source, target, chosen = Path(model), Path(draft), load_task(*task)
    tell(Progress("quantizing", 0, 1))
    everything = load(Path(data)).rows("train")
    sample = random.Random(seed).sample(everything, min(rows, len(everything)))
    torch.manual_seed(seed)
    try:
        blocks = [] if method == "rtn" else calibration(chosen, source, sample)
        quantize_weights(chosen.build(source).float().eval(), target, bits, group_size, method, blocks)
    except Unexportable as error:
        raise BadModel(f"{source} cannot be quantized: {error}") from error
    for name in ("config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    copy_tokenizer(source, target)
    tell(Progress("quantizing", 1, 1))


def calibration(task: Task, model: Path, rows: Sequence[dict[str, Any]]) -> list[torch.Tensor]:
    """The rows' tokens one after another, in blocks (1, length) of one length."""
    ids = [one for row in task.encoder(model)(rows) for one in row.inputs["input_ids"]]
    length = min(BLOCK, len(ids))
    return [torch.tensor([ids[start : start + length]]) for start in range(0, len(ids) - length + 1, length)]


if __name__ == "__main__":
    answer(lower)
