"""Encoders in 8 bits: with ranges that training rows decide, or without."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from fastserve_core.events import Progress, Warned
from fastserve_core.inference.predictor import by_length
from fastserve_neural_compressor.bridge import quantize_static
from fastserve_neural_compressor.job import Job
from fastserve_neural_compressor.tuning import Tuned, Tuning
from fastserve_neural_compressor.weight_only import quantize_encoder

if TYPE_CHECKING:
    from fastserve_neural_compressor.tuning import Answers, Batch

BATCH = 8
NAMED = 3
"""How many of the layers that stay in floats are named."""


def quantize(job: Job) -> None:
    """Write the engine's files; raises ``Unexportable``."""
    options = job.options
    if options.method == "dynamic":
        quantize_encoder(job.floats(), job.folder, options.embeddings)
        return
    tuning = None if options.tolerable_loss is None else _tuning(job, options.tolerable_loss)
    found = quantize_static(job.floats(), _calibration(job), job.folder, embeddings=options.embeddings, tuning=tuning)
    _say(job, found)


def _calibration(job: Job) -> list[Batch]:
    encoded = job.task.encoder(job.model)(job.sample())
    order = by_length(encoded, BATCH)
    random.Random(job.seed).shuffle(order)  # the observer weighs the first batch most: it must not be the shortest
    return [dict(job.task.collate([encoded[place] for place in places])) for places in order]


def _tuning(job: Job, loss: float) -> Tuning:
    """Tries are rated on the validation split."""
    task = job.task
    encoded = task.encoder(job.model)(job.data.rows("validation"))
    batches = [[encoded[place] for place in places] for places in by_length(encoded, BATCH)]

    def score(answers: Answers) -> float:
        evidence: list[Any] = []
        for batch in batches:
            evidence += task.evidence(answers(dict(task.collate(batch))), batch)
        return task.objective(task.score(evidence))

    return Tuning(score, loss, lambda number, of: job.tell(Progress("rating tries", number, of)))


def _say(job: Job, found: Tuned) -> None:
    layers = [one.removeprefix("model.") for one in found.in_floats]
    if layers:
        named = ", ".join(layers[:NAMED]) + (", …" if len(layers) > NAMED else "")
        job.tell(Warned(f"{len(layers)} linear layers stay in floats: {named}"))
    if not found.within:
        said = "no try lost as little as compress.neural_compressor.tolerable_loss says: the best one is taken"
        job.tell(Warned(said))
