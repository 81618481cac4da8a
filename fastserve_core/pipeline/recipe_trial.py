"""Compression recipes as a tuner tries them: what it searches, one trial, and the number that the trial gets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.config.nodes import GateOptions
from fastserve_core.errors import ErrorCollector, InvalidPlan, StageFailed, did_you_mean
from fastserve_core.pipeline.record import RunRecord
from fastserve_core.plugins.contexts import Budget, TrialRequest, TrialResult

if TYPE_CHECKING:
    from fastserve_core.pipeline.context import Pipeline
    from fastserve_core.plugins.registry import ActivePlugin, Registry

TRAIN, COMPRESS = "train", "compress"
REJECTED_SCORE = 16.0
"""What the gate's refusal costs: more than any recipe gains, for what is refused is not used in the end."""
MIN_DROP = 0.01
"""``gate.max_quality_drop=0`` must not make every loss of quality alike; a hundredth is then the unit."""


# -- what is searched --------------------------------------------------------------------------------


def stages_of(tuner: ActivePlugin) -> frozenset[str]:
    """The stages that a tuner searches: those of its ``searches`` (paths of options), else the trainer's alone."""
    paths: tuple[str, ...] = getattr(tuner.plugin, "searches", ())
    return frozenset(path.partition(".")[0] for path in paths) or frozenset({TRAIN})


def searches_compressors_only(registry: Registry) -> bool:
    """Whether the tuner works on the trained model, for it searches compressors only."""
    return any(stages_of(tuner) == {COMPRESS} for tuner in registry.plugins_for("tune"))


def searched_paths(registry: Registry, tuner: ActivePlugin) -> list[ActivePlugin]:
    """The plugins whose options the tuner may choose."""
    stages = stages_of(tuner)
    return [active for place in (TRAIN, COMPRESS) if place in stages for active in registry.plugins_for(place)]


def options_by_path(plugins: list[ActivePlugin]) -> dict[str, Any]:
    return {f"{active.path}.{name}": value for active in plugins for name, value in asdict(active.options).items()}


def check_searches(registry: Registry, tuner: ActivePlugin) -> None:
    """Refuse a tuner that lacks a trainer, or searches what is not chosen; every fault at once."""
    if TRAIN in stages_of(tuner) and not registry.plugins_for(TRAIN):
        raise InvalidPlan(
            "a tuner needs a trainer to make its trials: add one, e.g. +plugin=[nevergrad,torch_ddp], "
            "or search the compressors of a trained model"
        )
    faults = ErrorCollector()
    for names, says in (("searches", "searches"), ("conditions", "has a condition on")):
        for path in getattr(tuner.plugin, names, ()):
            with faults.collect():
                _check_path(registry, f"{tuner.path} {says}", path)
    faults.raise_if_any()


def _check_path(registry: Registry, says: str, path: str) -> None:
    chosen = {active.path: active for place in (TRAIN, COMPRESS) for active in registry.plugins_for(place)}
    owner, _, _ = path.rpartition(".")
    if owner not in chosen:
        hint = did_you_mean(owner, chosen)
        raise InvalidPlan(f"{says} '{path}', but no trainer or compressor '{owner}' is chosen{hint}")
    known = options_by_path([chosen[owner]])
    if path not in known:
        raise InvalidPlan(f"{says} '{path}', and there is no such option{did_you_mean(path, known)}")


# -- one trial ---------------------------------------------------------------------------------------


def run_compression_trial(pipeline: Pipeline, trial: TrialRequest, joint: bool) -> TrialResult:
    """The chain of compressors with the trial's options; a joint trial trains the model first.

    Every stage goes through the store, so that what a killed search had done is found again, and so is the winner.
    """
    original = _trained_model(pipeline, trial.options, trial.budget) if joint else pipeline.model
    standard = _trained_model(pipeline, {}, trial.budget) if joint else original
    tried = replace(pipeline, trial=True, model=original, record=RunRecord(None, pipeline.record.task, 0))
    made = tried.compress(trial.options)
    refused = "; ".join(f"{line.plugin}: {line.reason}" for line in tried.record.stages if line.reason)
    speedup = tried.record.stages[-1].measures["speedup"]
    smaller = original.size_bytes / made.size_bytes
    quality = _quality(pipeline, made)
    drop = _quality(pipeline, standard) - quality
    found = score([*speedup.values(), smaller], drop, bool(refused), pipeline.settings.general.gate)
    kept = ("quality_validation", "latency_ms_p50", "throughput_per_s", "size_bytes")
    measures = {name: made.measures[name] for name in kept}
    measures |= {"speedup": dict(speedup), "smaller": round(smaller, 4), "objective": quality}
    measures |= {"quality_drop": round(drop, 6), "accepted": not refused, "refused": refused}
    steps = trial.budget.steps or 0 if joint else 0
    return TrialResult(found, dict(made.measures["quality_validation"]), steps, measures=measures)


def _trained_model(pipeline: Pipeline, options: Mapping[str, Any], budget: Budget) -> Artifact:
    """A short training's model, from the store or made."""
    record = RunRecord(None, pipeline.record.task, 0)
    return replace(pipeline, trial=True, budget=budget, record=record).train(options)


def _quality(pipeline: Pipeline, model: Artifact) -> float:
    quality = pipeline.settings.task.objective(model.measures["quality_validation"])
    if not math.isfinite(quality):
        raise StageFailed(f"the quality on the validation split is {quality}")
    return quality


def score(times: list[float], drop: float, refused: bool, gate: GateOptions) -> float:
    """The number of a recipe, higher is better: what it gains, less what it costs.

    ``times`` are how many times as good it is as the original in latency, throughput and size. The mean of their
    base-2 logarithms counts a doubling alike wherever it starts, and a halving as its opposite: 1.0 is twice as good
    in all three. Of ``drop`` (in the task's objective, on the validation split) what ``gate.max_quality_drop``
    allows is free,
    and each further time as much costs 1.0: to be twice as good in everything is not worth to lose twice what is
    allowed. What the gate refuses comes after all that it accepts, but keeps its order (as in Deb's feasibility rules,
    2000): the tuner learns from it which way to go, and never takes it while there is another.
    """
    gain = sum(map(math.log2, times)) / len(times)
    over = max(0.0, drop - gate.max_quality_drop) / max(gate.max_quality_drop, MIN_DROP)
    return round(gain - over - (REJECTED_SCORE if refused else 0.0), 6)
