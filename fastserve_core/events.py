"""What a run tells its observers: plain frozen facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """The base of everything that observers are told."""


@dataclass(frozen=True)
class RunPlanned(Event):
    """What the run is about to do; ``state`` of a stage is ``reused`` or ``to do``."""

    stages: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Preflight(Event):
    """What training will take, said before it starts: counts, bytes and seconds (estimates)."""

    rows: int
    tokens: int
    parameters: int
    memory_bytes: int
    available_bytes: int
    seconds: float


@dataclass(frozen=True)
class StageStarted(Event):
    stage: str
    plugin: str


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage ended; ``status`` is ``done``, ``reused``, or ``rejected`` or ``failed`` (with the reason)."""

    stage: str
    plugin: str
    status: str
    seconds: float
    measures: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Step(Event):
    """One training step; rates are a second, ``seconds_left`` is for the whole stage."""

    step: int
    steps: int
    epoch: float
    loss: float
    learning_rate: float
    samples_per_s: float
    tokens_per_s: float
    seconds_left: float


@dataclass(frozen=True)
class Metric(Event):
    """A measurement during a stage, on the validation split; the unit is that of the task's ``MetricSpec``."""

    name: str
    value: float
    step: int
    unit: str = ""


@dataclass(frozen=True)
class TrialFinished(Event):
    """One attempt of a tuner, counted from 0; ``score`` is higher when better, ``None`` when the trial failed.

    ``measures`` are the figures of a compression recipe, ``error`` says why a trial failed. ``steps`` is after how many
    it was scored, where it may go on and be told of again.
    """

    number: int
    trials: int
    options: Mapping[str, Any]
    score: float | None
    seconds: float
    measures: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    steps: int | None = None


@dataclass(frozen=True)
class Progress(Event):
    """How far a stage without training steps is."""

    activity: str
    done: int
    total: int


@dataclass(frozen=True)
class WarningRaised(Event):
    message: str


@dataclass(frozen=True)
class RunFinished(Event):
    """The run's record is complete; ``folder`` holds ``run.json``."""

    folder: Path
    record: Mapping[str, Any]


EVENT_TYPES = {kind.__name__: kind for kind in (Step, Metric, Progress, WarningRaised)}
"""The events that a child process may send to its parent as JSON."""


def to_json(event: Event) -> dict[str, Any]:
    """An event as a JSON object; ``from_json`` reads it back."""
    return {"event": type(event).__name__, **asdict(event)}


def from_json(record: dict[str, Any]) -> Event:
    """The event of a JSON object made by ``to_json``."""
    fields = dict(record)
    return EVENT_TYPES[fields.pop("event")](**fields)
