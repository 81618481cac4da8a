"""The process that quantizes a language model's weights: load the model, quantize, write the engine's files."""

from __future__ import annotations

import shutil
from pathlib import Path

from fastserve_core.children import answer, event_writer
from fastserve_core.errors import BadModel, Unexportable
from fastserve_core.events import Progress
from fastserve_core.files import copy_tokenizer
from fastserve_core.predictor import load_task
from fastserve_neural_compressor.weight_only import quantize_weights


def lower(model: str, draft: str, bits: int, group_size: int, events: str) -> None:
    """Write the quantized model into the draft folder."""
    tell = event_writer(events)
    source, target = Path(model), Path(draft)
    tell(Progress("quantizing", 0, 1))
    try:
        quantize_weights(load_task("causal_lm", {}).build(source).eval(), target, bits, group_size)
    except Unexportable as error:
        raise BadModel(f"{source} cannot be quantized: {error}") from error
    for name in ("config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    copy_tokenizer(source, target)
    tell(Progress("quantizing", 1, 1))


if __name__ == "__main__":
    answer(lower)
