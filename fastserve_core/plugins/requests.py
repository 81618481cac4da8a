"""Arguments and results of verbs besides their context: budgets, staged artifacts, trials, losses, servers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from typing import Any, Protocol

from fastserve_core.artifacts.artifact import TRAINABLE, Artifact
from fastserve_core.tasks.encoded import Row


@dataclass(frozen=True)
class Budget:
    """The limit of a training.

    Attributes:
        steps: The length of the schedule in optimizer steps; ``None``: as in the trainer's options.
        stop_at_step: The step at which to stop, score the model and write a checkpoint, from which the trial of the
            same number resumes. A trainer that cannot stop trains to the end.
    """

    steps: int | None = None
    stop_at_step: int | None = None


@dataclass(frozen=True)
class StagedArtifact:
    """An artifact that is not yet published: files in the work folder, and the engine that loads them.

    Attributes:
        folder: The folder with the files.
        engine: The name of the engine that loads them.
        form: ``trainable`` or ``engine``.
        labels: The labels in the order of the outputs, if they differ from the model's.
        scores: The task's metrics on the validation split, if the plugin measured them.
        steps: The number of optimizer steps.
        costs: Costs of the work (``seconds``, ``peak_memory_bytes`` …), for the lineage.
        variant: The name of this variant of the result, if there are alternatives.
        alternatives: Other variants of the result. The core measures all of them, and publishes the best.
    """

    folder: Path
    engine: str = "torch"
    form: str = TRAINABLE
    labels: tuple[str, ...] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    costs: Mapping[str, float] = field(default_factory=dict)
    variant: str = ""
    alternatives: tuple[StagedArtifact, ...] = ()


@dataclass(frozen=True)
class TrialRequest:
    """One trial that a tuner requests.

    Attributes:
        number: The trial's number, counted from 0.
        options: Replaced options by path, such as ``train.torch_ddp.lr``.
        budget: The limit of its training.
        repeat: The index among trainings with the same options; each has its own seed and, with ``folds``, its fold.
        folds: The number of folds that train + validation are split into, if it validates on one of them.
        threads: The number of threads that it may use, if other trials run at the same time.
        stop: The trial ends without a result soon after this flag is set.
        remote_executor: Runs the trial on another machine: takes a serialized trial, returns the result of
            ``run_remote_trial``.
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
        objective: The value to maximize: the task's objective of a training, the score of a compression recipe.
        scores: The task's metrics on the validation split.
        steps: The number of optimizer steps.
        seconds: Wall time.
        measures: The measurements of a compression recipe.
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
        loss: The name of an entry point of the group ``fastserve.losses``.
        options: Its options, as JSON values.
    """

    loss: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class RetrainRequest:
    """A training that a compressor requests.

    Attributes:
        model: The model to train.
        folder: The work folder of the training.
        options: The trainer's options by name, in place of the user's.
        auxiliary_loss: A loss besides that of the labels.
        unlabelled: Files of texts for the auxiliary loss alone.
        rows: Rows without labels for the auxiliary loss alone; iterated more than once.
    """

    model: Artifact
    folder: Path
    options: Mapping[str, Any]
    auxiliary_loss: AuxiliaryLoss | None = None
    unlabelled: Sequence[str] = ()
    rows: Iterable[Row] = ()


class RunningServer(Protocol):
    """A running server.

    Attributes:
        url: Its address.
    """

    url: str

    def wait(self) -> None:
        """Block until the server ends.

        Raises:
            StageError: The server crashed.
        """

    def stop(self) -> None:
        """Finish the pending requests and end the server."""
