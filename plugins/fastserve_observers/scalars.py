"""Scalars of events by name, and options by path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve_core.events import Metric, StageFinished, Step
from fastserve_observers.formatting import to_finite_float

SPLITS = {"quality": "test", "quality_validation": "validation"}


def get_step_scalars(event: Step) -> dict[str, float]:
    """Return a step's loss, learning rate, and rates per second."""
    return {
        "loss": event.loss,
        "learning_rate": event.learning_rate,
        "samples_per_s": event.samples_per_s,
        "tokens_per_s": event.tokens_per_s,
    }


def get_metric_scalars(event: Metric) -> dict[str, float]:
    """Return a validation metric by its name: ``validation/accuracy``."""
    return {f"validation/{event.name.removeprefix('validation_')}": event.value}


def get_stage_scalars(event: StageFinished) -> dict[str, float]:
    """Return the duration of a stage and its measures: ``measures/test/accuracy``, ``measures/latency_ms_p50``."""
    measures: dict[str, Any] = {"seconds": event.seconds}
    for name, value in event.measures.items():
        if isinstance(value, Mapping):
            measures |= {f"{SPLITS.get(name, name)}/{metric}": score for metric, score in value.items()}
        else:
            measures[name] = value
    return {
        f"measures/{name}": scalar for name, value in measures.items() if (scalar := to_finite_float(value)) is not None
    }


def flatten_options(options: Mapping[Any, Any], path: str = "") -> dict[str, Any]:
    """Return the values of nested options by their path: ``train.torch_ddp.lr``."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        full = f"{path}.{name}" if path else str(name)
        flat |= flatten_options(value, full) if isinstance(value, Mapping) else {full: value}
    return flat
