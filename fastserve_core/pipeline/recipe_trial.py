"""One trial of a compression recipe, and its score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.config.nodes import GateOptions
from fastserve_core.errors import StageError
from fastserve_core.pipeline.session import Session
from fastserve_core.pipeline.stages import Stages
from fastserve_core.plugins.requests import Budget, TrialRequest, TrialResult

StagesFactory = Callable[[Session, Artifact], Stages]
"""Makes the stages of a trial; an argument, because the search itself is a stage."""
REJECTED_SCORE = 16.0
"""Subtracted from the score of a refused candidate: more than any recipe gains, because the candidate is not used."""
MIN_DROP_UNIT = 0.01
"""The unit of a quality drop if ``gate.max_quality_drop`` is 0."""
MEASURES = ("quality_validation", "latency_ms_p50", "throughput_per_s", "size_bytes")


def run_compression_trial(
    make_stages: StagesFactory, session: Session, model: Artifact, trial: TrialRequest, is_joint: bool
) -> TrialResult:
    """Run the chain of compressors with the trial's options.

    Every stage's result is in the store, so that a resumed search reuses it, and the run reuses the best trial's.

    Args:
        make_stages: Makes the stages of the trial.
        session: The run.
        model: The model that the trial starts from.
        trial: The trial.
        is_joint: Whether the trial also trains the model with its options, before the compressors.

    Raises:
        StageError: A stage failed, or the quality on the validation split is not finite.
    """
    settings = session.settings
    original = _train_model(make_stages, session, model, trial.options, trial.budget) if is_joint else model
    default = _train_model(make_stages, session, model, {}, trial.budget) if is_joint else original
    stages = make_stages(session.for_trial(session.budget), original)
    candidate = _require_model(stages.compress(trial.options))
    records = stages.session.record.stages
    refused = "; ".join(f"{record.plugin}: {record.reason}" for record in records if record.reason)
    speedup = records[-1].measures["speedup"]
    size_ratio = original.size_bytes / candidate.size_bytes
    quality = _quality(session, candidate)
    drop = _quality(session, default) - quality
    objective = score_recipe([*speedup.values(), size_ratio], drop, bool(refused), settings.general.gate)
    measures: dict[str, Any] = {name: candidate.measures[name] for name in MEASURES}
    measures |= {"speedup": dict(speedup), "smaller": round(size_ratio, 4), "objective": quality}
    measures |= {"quality_drop": round(drop, 6), "accepted": not refused, "refused": refused}
    steps = trial.budget.steps or 0 if is_joint else 0
    return TrialResult(objective, dict(candidate.measures["quality_validation"]), steps, measures=measures)


def _train_model(
    make_stages: StagesFactory, session: Session, model: Artifact, options: Mapping[str, Any], budget: Budget
) -> Artifact:
    """Return the model of a short training; from the store if it is there."""
    return _require_model(make_stages(session.for_trial(budget), model).train(options))


def _require_model(model: Artifact | None) -> Artifact:
    if model is None:
        raise StageError("a trial's stages made no model")
    return model


def _quality(session: Session, model: Artifact) -> float:
    quality = session.settings.task.objective(model.measures["quality_validation"])
    if not math.isfinite(quality):
        raise StageError(f"the quality on the validation split is {quality}")
    return quality


def score_recipe(ratios: list[float], drop: float, is_refused: bool, gate: GateOptions) -> float:
    """Score a recipe: its gain in speed and size minus a penalty for its loss of quality; higher is better.

    The gain is the mean base-2 logarithm of the ratios, so that 1.0 means twice as good in all of them. A drop up to
    ``gate.max_quality_drop`` is free; each further multiple of it costs 1.0, so that twice the allowed drop outweighs
    a model that is twice as good in everything. A refused candidate ranks below every accepted one, but refused
    candidates keep their order, so that the tuner can learn from them (feasibility rules of Deb, 2000, "An efficient
    constraint handling method for genetic algorithms").

    Args:
        ratios: Latency, throughput and size of the original relative to the candidate's; above 1 is better.
        drop: The loss in the task's objective on the validation split.
        is_refused: Whether the gate refuses the candidate.
        gate: The gate's options.
    """
    gain = sum(map(math.log2, ratios)) / len(ratios)
    penalty = max(0.0, drop - gate.max_quality_drop) / max(gate.max_quality_drop, MIN_DROP_UNIT)
    return round(gain - penalty - (REJECTED_SCORE if is_refused else 0.0), 6)
