"""Encoders in 8 bits: with ranges that training rows decide, or without."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from fastserve_core.events import Progress, WarningRaised
from fastserve_core.inference import length_batches
from fastserve_neural_compressor.accuracy_tuning import Tuning, TuningResult
from fastserve_neural_compressor.job import QuantizeJob
from fastserve_neural_compressor.static_quantization import quantize_static
from fastserve_neural_compressor.weight_only import quantize_encoder

if TYPE_CHECKING:
    from fastserve_neural_compressor.accuracy_tuning import Answers, Batch

BATCH = 8
MAX_LAYERS_IN_MESSAGE = 3
"""How many of the layers that stay in floats are named."""


def quantize(job: QuantizeJob) -> None:
    """Write the engine's files; raises ``ExportError``."""
    options = job.options
    if options.method == "dynamic":
        quantize_encoder(job.floats(), job.folder, options.embeddings)
        return
    tuning = None if options.tolerable_loss is None else _autotune(job, options.tolerable_loss)
    found = quantize_static(job.floats(), _calibration(job), job.folder, embeddings=options.embeddings, tuning=tuning)
    _report(job, found)


def _calibration(job: QuantizeJob) -> list[Batch]:
    encoded = job.task.encoder(job.model)(job.sample())
    order = length_batches(encoded, BATCH)
    random.Random(job.seed).shuffle(order)  # the observer weighs the first batch most: it must not be the shortest
    return [dict(job.task.collate([encoded[place] for place in places])) for places in order]


def _autotune(job: QuantizeJob, loss: float) -> Tuning:
    """Tries are rated on the validation split."""
    task = job.task
    encoded = task.encoder(job.model)(job.data.rows("validation"))
    batches = [[encoded[place] for place in places] for places in length_batches(encoded, BATCH)]

    def score(answers: Answers) -> float:
        evidence: list[Any] = []
        for batch in batches:
            evidence += task.evidence(answers(dict(task.collate(batch))), batch)
        return task.objective(task.score(evidence))

    return Tuning(score, loss, lambda number, of: job.progress(Progress("rating tries", number, of)))


def _report(job: QuantizeJob, found: TuningResult) -> None:
    layers = [one.removeprefix("model.") for one in found.fp32_layers]
    if layers:
        named = ", ".join(layers[:MAX_LAYERS_IN_MESSAGE]) + (", …" if len(layers) > MAX_LAYERS_IN_MESSAGE else "")
        job.progress(WarningRaised(f"{len(layers)} linear layers stay in floats: {named}"))
    if not found.within:
        said = "no try lost as little as compress.neural_compressor.tolerable_loss says: the best one is taken"
        job.progress(WarningRaised(said))
