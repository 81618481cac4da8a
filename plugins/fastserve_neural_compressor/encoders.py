"""Quantize encoders to 8 bits, statically with calibration data or dynamically."""

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
    from fastserve_neural_compressor.accuracy_tuning import Batch, Predict

BATCH_SIZE = 8
MAX_LAYERS_IN_MESSAGE = 3
"""Maximum number of layer names in the warning."""


def quantize(job: QuantizeJob) -> None:
    """Write the engine's files.

    Raises:
        ExportError: The model cannot be quantized.
    """
    options, model = job.options, job.load_model()
    uncompressed = job.task.find_uncompressed(model)
    if options.method == "dynamic":
        quantize_encoder(model, job.folder, options.embeddings, uncompressed, job.task.outputs)
        return
    tuning = None if options.tolerable_loss is None else _make_tuning(job, options.tolerable_loss)
    result = quantize_static(
        model,
        _make_calibration_batches(job),
        job.folder,
        embeddings=options.embeddings,
        tuning=tuning,
        uncompressed=uncompressed,
        outputs=job.task.outputs,
    )
    _report(job, result)


def _make_calibration_batches(job: QuantizeJob) -> list[Batch]:
    examples = job.task.examples(job.task.encoder(job.model)(job.sample_rows()), "validation")
    order = length_batches(examples, BATCH_SIZE)
    random.Random(job.seed).shuffle(order)  # the observer weights the first batch most, so it must not be the shortest
    return [dict(job.task.collate([examples[index] for index in indices])) for indices in order]


def _make_tuning(job: QuantizeJob, loss: float) -> Tuning:
    """Return a criterion that scores models on the validation split."""
    task = job.task
    examples = task.examples(task.encoder(job.model)(job.data.rows("validation")), "validation")
    batches = [[examples[index] for index in indices] for indices in length_batches(examples, BATCH_SIZE)]

    def score(predict: Predict) -> float:
        statistics: list[Any] = []
        for batch in batches:
            statistics += task.batch_statistics(predict(dict(task.collate(batch))), batch)
        return task.objective(task.score(statistics))

    return Tuning(score, loss, lambda done, total: job.emit(Progress("tuning accuracy", done, total)))


def _report(job: QuantizeJob, result: TuningResult) -> None:
    layers = [name.removeprefix("model.") for name in result.fp32_layers]
    if layers:
        named = ", ".join(layers[:MAX_LAYERS_IN_MESSAGE]) + (", …" if len(layers) > MAX_LAYERS_IN_MESSAGE else "")
        job.emit(WarningRaised(f"{len(layers)} linear layers stay in fp32: {named}"))
    if not result.is_tolerable:
        message = "no trial is within compress.neural_compressor.tolerable_loss: the best one is used"
        job.emit(WarningRaised(message))
