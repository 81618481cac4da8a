"""What events come to in named numbers, and options by their path: what curves and tables are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve_core.events import Metric, StageFinished, Step
from fastserve_observers.formatting import number

SPLITS = {"quality": "test", "quality_validation": "validation"}


def step_figures(event: Step) -> dict[str, float]:
    """A step's loss, learning rate, and rates a second."""
    return {
        "loss": event.loss,
        "learning_rate": event.learning_rate,
        "samples_per_s": event.samples_per_s,
        "tokens_per_s": event.tokens_per_s,
    }


def metric_figures(event: Metric) -> dict[str, float]:
    return {f"validation/{event.name.removeprefix('validation_')}": event.value}


def stage_figures(event: StageFinished) -> dict[str, float]:
    """How long a stage took, and its measures: ``measures/test/accuracy``, ``measures/latency_ms_p50`` …"""
    found: dict[str, Any] = {"seconds": event.seconds}
    for name, value in event.measures.items():
        if isinstance(value, Mapping):
            found |= {f"{SPLITS.get(name, name)}/{one}": figure for one, figure in value.items()}
        else:
            found[name] = value
    return {f"measures/{name}": figure for name, value in found.items() if (figure := number(value)) is not None}


def by_path(options: Mapping[Any, Any], path: str = "") -> dict[str, Any]:
    """The values of nested options by their path, as they are set: ``train.torch_ddp.lr``."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        full = f"{path}.{name}" if path else str(name)
        found |= by_path(value, full) if isinstance(value, Mapping) else {full: value}
    return found
