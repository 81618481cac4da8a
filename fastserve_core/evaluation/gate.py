"""The gate: a compressed candidate that is worse than the budget allows is refused, with its figures."""

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
"""Of two models as fast as each other, timed in turn on a busy machine, one may seem so much slower."""


@dataclass(frozen=True)
class Speedup:
    """How many times as fast a candidate is as another model, timed in turn with it."""

    latency: float
    throughput: float


def defers_gate(
    active: ActivePlugin[Compressor], later: Sequence[ActivePlugin[Compressor]], is_deferred: bool = False
) -> bool:
    """Return whether a candidate is judged later, because a compressor that trains repairs it.

    Args:
        active: The candidate's compressor.
        later: The compressors after it.
        is_deferred: Whether the gate of the model that the candidate is made of was deferred.
    """
    needs_training = is_deferred or active.plugin.wants_training
    return needs_training and any(compressor.plugin.trains for compressor in later)


@dataclass(frozen=True)
class Verdict:
    """Why a candidate is refused (empty when it passes), and how many times as fast as the original it is."""

    reason: str
    speedup: Mapping[str, float]


def baselines(candidate: Artifact, original: Artifact, before: Artifact) -> list[Artifact]:
    """The models to time in turn: the candidate, the original, and the last good model where that is another."""
    return [candidate, original] + ([before] if before.digest != original.digest else [])


def evaluate_gate(
    candidate: Artifact, original: Artifact, speedups: Sequence[Speedup], options: GateOptions, task: Task
) -> Verdict:
    """The gate's verdict; ``speedups`` are over the others of ``rivals``. A reason names all that is over its bound."""
    speedup = vars(speedups[0])
    if not options.enabled:
        return Verdict("", speedup)
    before, after = (task.objective(one.measures["quality_validation"]) for one in (original, candidate))
    smaller = original.size_bytes / candidate.size_bytes
    reasons = []
    if not before - after <= options.max_quality_drop:
        reasons.append(f"quality drops by {before - after:.4f} (gate.max_quality_drop={options.max_quality_drop:g})")
    if smaller < options.min_size_ratio:
        reasons.append(f"it is {smaller:.2f} times as small (gate.min_size_ratio={options.min_size_ratio:g})")
    reasons += _too_slow(speedups[0], options.min_speedup, "")
    for one in speedups[1:]:
        reasons += _too_slow(one, min(1.0, options.min_speedup), " as the last good model")
    return Verdict("; ".join(reasons), speedup)


def _too_slow(speedup: Speedup, bound: float, than: str) -> list[str]:
    return [
        f"its {what} is {times:.2f} times as good{than} (gate.min_speedup={bound:g})"
        for what, times in vars(speedup).items()
        if times < bound * (1 - TIMING_TOLERANCE)
    ]
