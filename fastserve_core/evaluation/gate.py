"""The gate, which refuses a compressed candidate that exceeds its bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.config.nodes import GateOptions
from fastserve_core.tasks.task import Task

if TYPE_CHECKING:
    from fastserve_core.plugins.base import Compressor
    from fastserve_core.plugins.registry import ActivePlugin

TIMING_TOLERANCE = 0.05
"""The measured difference between equally fast models, timed interleaved on a busy machine, may be as large."""
UNCERTAINTY = 0.15
"""Narrower refusals are measured again. Measurements of equally fast models, minutes apart, were 0.94 and 1.01."""


@dataclass(frozen=True)
class Speedup:
    """The speed of a candidate relative to another model; above 1 is faster.

    Attributes:
        latency: The ratio of the latencies of single inputs.
        throughput: The ratio of the throughputs of batches.
    """

    latency: float
    throughput: float


def defers_gate(
    active: ActivePlugin[Compressor], later: Sequence[ActivePlugin[Compressor]], is_deferred: bool = False
) -> bool:
    """Return whether the gate waits for a later compressor that trains the candidate again.

    Args:
        active: The candidate's compressor.
        later: The compressors after it.
        is_deferred: Whether the gate was deferred for the candidate's input model.
    """
    needs_training = is_deferred or active.plugin.wants_training
    return needs_training and any(compressor.plugin.trains for compressor in later)


@dataclass(frozen=True)
class Verdict:
    """The decision of the gate.

    Attributes:
        reason: Why the candidate is refused; empty if it passes.
        speedup: The ratios of latency and throughput to the original.
    """

    reason: str
    speedup: Mapping[str, float]


def models_to_time(candidate: Artifact, original: Artifact, last_good: Artifact) -> list[Artifact]:
    """List the models to time together: the candidate, the original, and the last good model if it is another."""
    return [candidate, original] + ([last_good] if last_good.digest != original.digest else [])


def is_decided(speedups: Sequence[Speedup], options: GateOptions) -> bool:
    """Return whether no speedup is refused so narrowly that another measurement may accept it.

    Args:
        speedups: The candidate's speedups relative to the other models of ``models_to_time``.
        options: The gate's options.
    """
    return not options.enabled or not any(
        bound * (1 - UNCERTAINTY) <= ratio < bound * (1 - TIMING_TOLERANCE)
        for speedup, bound in zip(speedups, _bounds(speedups, options), strict=True)
        for ratio in vars(speedup).values()
    )


def _bounds(speedups: Sequence[Speedup], options: GateOptions) -> list[float]:
    """Return the minimum speedup over the original, and over the last good model if it is another."""
    return [options.min_speedup, *(min(1.0, options.min_speedup) for _ in speedups[1:])]


def evaluate_gate(
    candidate: Artifact, original: Artifact, speedups: Sequence[Speedup], options: GateOptions, task: Task
) -> Verdict:
    """Evaluate the gate.

    Args:
        candidate: The candidate.
        original: The model before the first compressor.
        speedups: The candidate's speedups relative to the other models of ``models_to_time``.
        options: The gate's options.
        task: The task, for its objective.

    Returns:
        The verdict; its reason lists all bounds that are exceeded.
    """
    speedup = vars(speedups[0])
    if not options.enabled:
        return Verdict("", speedup)
    before, after = (task.objective(model.measures["quality_validation"]) for model in (original, candidate))
    drop, size_ratio = before - after, original.size_bytes / candidate.size_bytes
    reasons = []
    if not drop <= options.max_quality_drop:  # true for NaN as well
        reasons.append(f"quality drop {drop:.4f} is above gate.max_quality_drop={options.max_quality_drop:g}")
    if size_ratio < options.min_size_ratio:
        reasons.append(f"size ratio {size_ratio:.2f} is below gate.min_size_ratio={options.min_size_ratio:g}")
    baselines = ["", *(" over the last good model" for _ in speedups[1:])]
    for ratio, bound, baseline in zip(speedups, _bounds(speedups, options), baselines, strict=True):
        reasons += _slowdown_reasons(ratio, bound, baseline)
    return Verdict("; ".join(reasons), speedup)


def _slowdown_reasons(speedup: Speedup, bound: float, baseline: str) -> list[str]:
    return [
        f"{name} speedup {ratio:.2f}{baseline} is below gate.min_speedup={bound:g}"
        for name, ratio in vars(speedup).items()
        if ratio < bound * (1 - TIMING_TOLERANCE)
    ]
