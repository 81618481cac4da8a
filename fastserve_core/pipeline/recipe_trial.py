"""One trial of a compression recipe, and its score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.config.nodes import GateOptions
from fastserve_core.errors import StageFailed
from fastserve_core.pipeline.session import Session
from fastserve_core.pipeline.stages import Stages
from fastserve_core.plugins.requests import Budget, TrialRequest, TrialResult

StagesFactory = Callable[[Session, Artifact], Stages]
"""Makes the stages of a trial: given as an argument, because the search is a stage itself."""
REJECTED_SCORE = 16.0
"""Subtracted if the gate refuses: more than any recipe gains, because a refused candidate is not used in the end."""
MIN_DROP = 0.01
"""The unit of a loss of quality if ``gate.max_quality_drop`` is 0, so that losses still differ."""
MEASURES = ("quality_validation", "latency_ms_p50", "throughput_per_s", "size_bytes")


def run_compression_trial(
    make_stages: StagesFactory, session: Session, model: Artifact, trial: TrialRequest, is_joint: bool
) -> TrialResult:
    """Run the chain of compressors with the trial's options; a joint trial trains the model first.

    Every stage goes through the store, so that a resumed search finds what was done, and the run finds the winner.
    """
    settings = session.settings
    original = _train(make_stages, session, model, trial.options, trial.budget) if is_joint else model
    standard = _train(make_stages, session, model, {}, trial.budget) if is_joint else original
    stages = make_stages(session.for_trial(session.budget), original)
    made = _require(stages.compress(trial.options))
    lines = stages.session.record.stages
    refused = "; ".join(f"{line.plugin}: {line.reason}" for line in lines if line.reason)
    speedup = lines[-1].measures["speedup"]
    smaller = original.size_bytes / made.size_bytes
    quality = _quality(session, made)
    drop = _quality(session, standard) - quality
    objective = score([*speedup.values(), smaller], drop, bool(refused), settings.general.gate)
    measures: dict[str, Any] = {name: made.measures[name] for name in MEASURES}
    measures |= {"speedup": dict(speedup), "smaller": round(smaller, 4), "objective": quality}
    measures |= {"quality_drop": round(drop, 6), "accepted": not refused, "refused": refused}
    steps = trial.budget.steps or 0 if is_joint else 0
    return TrialResult(objective, dict(made.measures["quality_validation"]), steps, measures=measures)


def _train(
    make_stages: StagesFactory, session: Session, model: Artifact, options: Mapping[str, Any], budget: Budget
) -> Artifact:
    """Return the model of a short training, from the store or made."""
    return _require(make_stages(session.for_trial(budget), model).train(options))


def _require(model: Artifact | None) -> Artifact:
    if model is None:
        raise StageFailed("a trial's stages made no model")
    return model


def _quality(session: Session, model: Artifact) -> float:
    quality = session.settings.task.objective(model.measures["quality_validation"])
    if not math.isfinite(quality):
        raise StageFailed(f"the quality on the validation split is {quality}")
    return quality


def score(times: list[float], drop: float, refused: bool, gate: GateOptions) -> float:
    """The number of a recipe, higher is better: what it gains, less what it costs.

    ``times`` are how many times as good it is as the original in latency, throughput and size. The mean of their
    base-2 logarithms counts a doubling alike wherever it starts, and a halving as its opposite: 1.0 is twice as good
    in all three. Of ``drop`` (in the task's objective, on the validation split), ``gate.max_quality_drop`` is free, and
    each further time as much costs 1.0: to be twice as good in everything is not worth to lose twice what is
    allowed. What the gate refuses comes after all that it accepts, but keeps its order (as in Deb's feasibility rules,
    2000): the tuner learns from it which way to go, and never takes it while there is another.
    """
    gain = sum(map(math.log2, times)) / len(times)
    over = max(0.0, drop - gate.max_quality_drop) / max(gate.max_quality_drop, MIN_DROP)
    return round(gain - over - (REJECTED_SCORE if refused else 0.0), 6)
