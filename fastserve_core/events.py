"""The events that a run reports to its observers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """The base class of events."""


@dataclass(frozen=True)
class RunPlanned(Event):
    """The plan of the run.

    Attributes:
        stages: ``(stage, plugin, state)`` for each stage; the state is ``reused`` or ``to do``.
    """

    stages: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Preflight(Event):
    """The estimated cost of a training, reported before it starts.

    Attributes:
        rows: The number of training rows.
        tokens: The number of tokens of all epochs.
        parameters: The number of the model's parameters.
        memory_bytes: The memory that the training needs.
        available_bytes: The memory that is available.
        seconds: The duration; an upper bound of a short training that was not measured.
        processor: The processor that the times are for.
        is_measured: Whether the times are those of steps that were taken on this machine.
        step_seconds: The mean time of an optimizer step.
        start_seconds: The time to start and end a training.
        evaluation_seconds: The time of one evaluation on the validation split.
        unknown_share: The share of the tokens that the model's tokenizer does not know, in a sample of the rows.
    """

    rows: int
    tokens: int
    parameters: int
    memory_bytes: int
    available_bytes: int
    seconds: float
    unknown_share: float = 0.0
    processor: str = ""
    is_measured: bool = False
    step_seconds: float = 0.0
    start_seconds: float = 0.0
    evaluation_seconds: float = 0.0


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage started.

    Attributes:
        stage: The stage.
        plugin: The plugin's name.
    """

    stage: str
    plugin: str


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage ended.

    Attributes:
        stage: The stage.
        plugin: The plugin's name.
        status: ``done``, ``reused``, ``rejected`` or ``failed``.
        seconds: Wall time.
        measures: The measurements of its result.
        reason: Why the result was rejected or the stage failed.
        metrics: The task's declarations of the scores by name, as a run's record has them.
    """

    stage: str
    plugin: str
    status: str
    seconds: float
    measures: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step(Event):
    """A training step.

    Attributes:
        step: The number of the step, counted from 1.
        steps: The total number of steps.
        epoch: The epoch, with its fraction.
        loss: The training loss.
        learning_rate: The learning rate.
        samples_per_s: Samples per second.
        tokens_per_s: Tokens per second.
        seconds_left: The estimated remaining time of the stage.
    """

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
    """A metric on the validation split, measured during a stage.

    Attributes:
        name: The metric.
        value: Its value, in the unit of the task's ``MetricSpec``.
        step: The training step.
    """

    name: str
    value: float
    step: int
    unit: str = ""


@dataclass(frozen=True)
class TrialFinished(Event):
    """A trial of a tuner ended or was stopped.

    Attributes:
        number: The trial's number, counted from 0.
        trials: The number of trials of the search.
        options: The trial's options by path.
        score: The trial's score, higher is better; ``None`` if it failed.
        seconds: Wall time.
        measures: The measurements of a compression recipe.
        error: Why the trial failed.
        steps: The training step at which a stopped trial was scored; it may resume and be reported again.
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
    """The progress of a stage without training steps.

    Attributes:
        activity: The activity, such as ``measuring``.
        done: The number of finished units.
        total: The number of units.
    """

    activity: str
    done: int
    total: int


@dataclass(frozen=True)
class WarningRaised(Event):
    """A warning.

    Attributes:
        message: The message.
    """

    message: str


@dataclass(frozen=True)
class Notice(Event):
    """A fact about the run that its user should know.

    Attributes:
        message: The message.
    """

    message: str


@dataclass(frozen=True)
class RunFinished(Event):
    """The run ended.

    Attributes:
        folder: The run's folder.
        record: The content of its ``run.json``.
    """

    folder: Path
    record: Mapping[str, Any]


EVENT_TYPES = {kind.__name__: kind for kind in (Step, Metric, Progress, WarningRaised, Notice)}
"""The events that a child process may send to its parent as JSON."""


def to_json(event: Event) -> dict[str, Any]:
    """Return an event as a JSON object."""
    return {"event": type(event).__name__, **asdict(event)}


def from_json(record: dict[str, Any]) -> Event:
    """Return the event of a JSON object that ``to_json`` returned."""
    fields = dict(record)
    return EVENT_TYPES[fields.pop("event")](**fields)
