"""The choice between variants of a compressed model: the fastest one of sufficient quality on this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.evaluation.paired_timing import measure_speedups
from fastserve_core.pipeline.session import Session


def select_variant(
    session: Session, variants: Mapping[str, Artifact], original: Artifact
) -> tuple[str, dict[str, dict[str, float]]]:
    """Select the best of several variants, timed in turn.

    Args:
        session: The run.
        variants: The measured artifacts by name. Those whose quality drops further than the gate allows are selected
            only if all do.
        original: The model before the first compressor.

    Returns:
        The name of the best, and the figures of each: ``speed`` relative to the best (the mean of latency and
        throughput, above 1 is faster) and ``quality``, the objective on the validation split.
    """
    task = session.settings.task
    speedups = measure_speedups(session.store, list(variants.values()), session.require_data(), session.emit)
    # the first is compared with each of the others
    speeds = [1.0, *(1 / math.sqrt(ratio.latency * ratio.throughput) for ratio in speedups)]
    qualities = [task.objective(variant.measures["quality_validation"]) for variant in variants.values()]
    minimum = task.objective(original.measures["quality_validation"]) - session.settings.general.gate.max_quality_drop
    best = find_best(speeds, qualities, minimum)
    figures = {
        name: {"speed": round(speed / speeds[best], 4), "quality": round(quality, 6)}
        for name, speed, quality in zip(variants, speeds, qualities, strict=True)
    }
    return list(variants)[best], figures


def find_best(speeds: Sequence[float], qualities: Sequence[float], minimum: float) -> int:
    """Return the index of the fastest variant with the minimum quality; of the fastest, if none has it."""
    numbers = range(len(speeds))
    eligible = [number for number in numbers if qualities[number] >= minimum] or numbers
    return max(eligible, key=lambda number: speeds[number])
