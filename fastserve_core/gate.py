"""The gate: a compressed candidate that is worse than the budget allows is refused, with its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve_core.errors import BadOption
from fastserve_core.task import Task

if TYPE_CHECKING:
    from fastserve_core.registry import Active


@dataclass
class GateOptions:
    """The ``gate`` node of the config; each bound is against the model before the first compressor.

    ``max_quality_drop`` is in the task's objective on the validation split (accuracy: 0.015 is 1.5 points).
    """

    enabled: bool = True
    max_quality_drop: float = 0.015
    max_latency_ratio: float = 1.05
    max_size_ratio: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_latency_ratio", "max_size_ratio"):
            if getattr(self, name) <= 0:
                raise BadOption(f"gate.{name} must be above 0, not {getattr(self, name)}")


def is_judged_later(active: Active, later: Sequence[Active]) -> bool:
    """Whether a candidate is half done: its compressor leaves damage, and one that trains comes after it."""
    damages = getattr(active.plugin, "wants_training", False)
    return damages and any(getattr(one.plugin, "trains", False) for one in later)


def refusal(candidate: Mapping[str, Any], reference: Mapping[str, Any], options: GateOptions, task: Task) -> str | None:
    """Why the candidate is refused, with every figure that is over its bound; ``None`` when it passes."""
    if not options.enabled:
        return None
    before, after = (task.objective(one["quality_validation"]) for one in (reference, candidate))
    latency = candidate["latency_ms_p50"] / reference["latency_ms_p50"]
    size = candidate["size_bytes"] / reference["size_bytes"]
    reasons = []
    if not before - after <= options.max_quality_drop:
        reasons.append(f"quality drops by {before - after:.4f} (gate.max_quality_drop={options.max_quality_drop})")
    if latency > options.max_latency_ratio:
        reasons.append(f"latency is {latency:.2f} times (gate.max_latency_ratio={options.max_latency_ratio})")
    if size > options.max_size_ratio:
        reasons.append(f"size is {size:.2f} times (gate.max_size_ratio={options.max_size_ratio})")
    return "; ".join(reasons) or None
