"""The quantizer's process for encoders: load the model, calibrate, quantize, write the engine's files."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastserve_core.children import answer, event_writer
from fastserve_core.data import Prepared, load
from fastserve_core.errors import BadModel, Unexportable
from fastserve_core.events import Event, Progress, Warned
from fastserve_core.files import copy_tokenizer
from fastserve_core.predictor import by_length, load_task
from fastserve_core.task import Task
from fastserve_neural_compressor.bridge import quantize_static
from fastserve_neural_compressor.tuning import Tuning
from fastserve_neural_compressor.weight_only import quantize_encoder

if TYPE_CHECKING:
    from fastserve_neural_compressor.tuning import Answers, Batch

BATCH = 8


def lower(
    model: str,
    data: str,
    task: tuple[str, Mapping[str, Any], Sequence[str]],
    draft: str,
    method: str,
    rows: int,
    embeddings: str,
    tolerable_loss: float | None,
    seed: int,
    events: str,
) -> None:
    """Write the quantized model into the draft folder."""
    tell = event_writer(events)
    source, target, chosen, prepared = Path(model), Path(draft), load_task(*task), load(Path(data))
    tell(Progress("quantizing", 0, 2))
    torch.manual_seed(seed)
    try:
        floats: Any = chosen.build(source).float().eval()
        if method == "dynamic":
            quantize_encoder(floats, target, embeddings)
        else:
            tuning = None if tolerable_loss is None else _tuning(chosen, source, prepared, tolerable_loss, tell)
            batches = _calibration(chosen, source, prepared, rows, seed)
            found = quantize_static(floats, batches, target, embeddings=embeddings, tuning=tuning)
            _say(found.in_floats, found.within, tell)
    except Unexportable as error:
        raise BadModel(f"{source} cannot be quantized: {error}") from error
    tell(Progress("quantizing", 1, 2))
    shutil.copyfile(source / "config.json", target / "config.json")
    copy_tokenizer(source, target, spare=True)
    tell(Progress("quantizing", 2, 2))


def _calibration(task: Task, model: Path, data: Prepared, rows: int, seed: int) -> list[Batch]:
    everything = data.rows("train")
    sample = random.Random(seed).sample(everything, min(rows, len(everything)))
    encoded = task.encoder(model)(sample)
    order = by_length(encoded, BATCH)
    random.Random(seed).shuffle(order)  # the observer weighs the first batch most, which must not be the shortest
    return [dict(task.collate([encoded[place] for place in places])) for places in order]


def _tuning(task: Task, model: Path, data: Prepared, loss: float, tell: Callable[[Event], None]) -> Tuning:
    """Tries are rated on the validation split."""
    encoded = task.encoder(model)(data.rows("validation"))
    batches = [[encoded[place] for place in places] for places in by_length(encoded, BATCH)]

    def score(answers: Answers) -> float:
        evidence: list[Any] = []
        for batch in batches:
            evidence += task.evidence(answers(dict(task.collate(batch))), batch)
        return task.objective(task.score(evidence))

    return Tuning(score, loss, lambda number, of: tell(Progress("rating tries", number, of)))


def _say(in_floats: Sequence[str], within: bool, tell: Callable[[Event], None]) -> None:
    if in_floats:
        named = ", ".join(in_floats[:3]) + (", …" if len(in_floats) > 3 else "")
        tell(Warned(f"{len(in_floats)} linear layers stay in floats: {named}"))
    if not within:
        tell(Warned("no try lost as little as compress.neural_compressor.tolerable_loss says: the best one is taken"))


if __name__ == "__main__":
    answer(lower)
