"""What goes in and out of a verb besides its context: budgets, staged artifacts, trials, losses, running servers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from typing import Any, Protocol

from fastserve_core.artifacts.artifact import TRAINABLE, Artifact
from fastserve_core.tasks.task import Row


@dataclass(frozen=True)
class Budget:
    """How much training a trial may use.

    Attributes:
        steps: The length of the schedule in optimizer steps; ``None`` leaves it to the trainer's options.
        stop_at_step: Where to stop, score the model and leave a checkpoint that the trial of the same number resumes.
            A trainer that cannot stop trains to the end.
    """

    steps: int | None = None
    stop_at_step: int | None = None


@dataclass(frozen=True)
class StagedArtifact:
    """An artifact that is not yet published: files in the run's work folder, and the engine that loads them.

    Attributes:
        folder: Where the files are.
        engine: The name of the engine that loads them.
        form: ``trainable`` or ``engine``.
        labels: Replaces the model's labels, in the order of the outputs.
        scores: The task's metrics on the validation split, if the plugin measured them.
        steps: Optimizer steps that were done.
        costs: Costs of the work (``seconds``, ``peak_memory_bytes`` …); they become part of the lineage.
    """

    folder: Path
    engine: str = "torch"
    form: str = TRAINABLE
    labels: tuple[str, ...] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialRequest:
    """One trial that a tuner asks for.

    Attributes:
        number: The trial's number.
        options: Replaced options by path, such as ``train.torch_ddp.lr``.
        budget: How much training it may use.
        repeat: Counts the trainings with the same options; each has its own seed and, with ``folds``, its own fold.
        folds: The number of folds of train + validation, if it validates on one of them.
        threads: Its share of the cores, if other trials run at the same time.
        stop: The trial ends without a result soon after this flag is set.
        remote_executor: Carries the trial out on another machine: takes a serialized trial, returns what
            ``run_remote_trial`` returns there.
    """

    number: int
    options: Mapping[str, Any]
    budget: Budget
    repeat: int = 0
    folds: int | None = None
    threads: int | None = None
    stop: Flag | None = None
    remote_executor: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class TrialResult:
    """The outcome of a trial.

    Attributes:
        objective: The number to maximize: the task's objective of a training, the score of a compression recipe.
        scores: The task's metrics on the validation split.
        steps: Optimizer steps that were done.
        seconds: Wall time.
        measures: A recipe's measurements.
    """

    objective: float
    scores: Mapping[str, float]
    steps: int
    seconds: float = 0.0
    measures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AuxiliaryLoss:
    """A loss that a training minimizes besides that of the labels.

    Attributes:
        loss: An entry point of the group ``fastserve.losses``.
        options: JSON values for its provider.
    """

    loss: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class RetrainRequest:
    """One more training that a compressor asks for.

    Attributes:
        model: The model to train.
        folder: The work folder of the training.
        options: The trainer's options by name, in place of those that the user set.
        auxiliary_loss: A loss besides that of the labels.
        unlabelled: Files of texts that only the auxiliary loss learns from.
        rows: Rows without labels that only the auxiliary loss learns from; iterated more than once.
    """

    model: Artifact
    folder: Path
    options: Mapping[str, Any]
    auxiliary_loss: AuxiliaryLoss | None = None
    unlabelled: Sequence[str] = ()
    rows: Iterable[Row] = ()


class RunningServer(Protocol):
    """A server that answers requests at ``url``."""

    url: str

    def wait(self) -> None:
        """Block until the server ends.

        Raises:
            StageFailed: The server crashed.
        """

    def stop(self) -> None:
        """Drain and end the server."""
