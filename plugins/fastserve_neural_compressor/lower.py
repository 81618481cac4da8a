"""The quantizer's process: load the model, calibrate, quantize, write the engine's files."""

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
from fastserve_core.predictor import by_length, load_task
from fastserve_neural_compressor.bridge import quantize_static

BATCH = 8


def lower(
    model: str,
    data: str,
    task: tuple[str, Mapping[str, Any], Sequence[str]],
    draft: str,
    rows: int,
    embeddings: str,
    seed: int,
    events: str,
) -> None:
    """Write the quantized model into the draft folder."""
    tell = event_writer(events)
    source, target, chosen = Path(model), Path(draft), load_task(*task)
    tell(Progress("quantizing", 0, 2))
    everything = load(Path(data)).rows("train")
    sample = random.Random(seed).sample(everything, min(rows, len(everything)))
    encoded = chosen.encoder(source)(sample)
    order = by_length(encoded, BATCH)
    random.Random(seed).shuffle(order)  # the observer weighs the first batch most, which must not be the shortest
    batches = [chosen.collate([encoded[place] for place in places]) for places in order]
    torch.manual_seed(seed)
    try:
        quantize_static(chosen.build(source).float().eval(), batches, target, embeddings=embeddings)
    except Unexportable as error:
        raise BadModel(f"{source} cannot be quantized: {error}") from error
    tell(Progress("quantizing", 1, 2))
    shutil.copyfile(source / "config.json", target / "config.json")
    copy_tokenizer(source, target, spare=True)
    tell(Progress("quantizing", 2, 2))


if __name__ == "__main__":
    answer(lower)
