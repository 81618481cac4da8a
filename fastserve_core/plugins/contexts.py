"""What a verb is given and what it gives back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from typing import Any, Protocol

from fastserve_core.artifacts.artifact import TRAINABLE, Artifact
from fastserve_core.data.dataset import Dataset
from fastserve_core.errors import InvalidPlan
from fastserve_core.events import Event
from fastserve_core.tasks.task import Row, Task


@dataclass(frozen=True)
class Budget:
    """How much training an attempt may use: steps on a schedule of that length; ``None`` is what the options say.

    With ``pause`` it stops at that step, scores what it has, and leaves in its folder what the attempt of the same
    number goes on from. A trainer that cannot pause trains to the end.
    """

    steps: int | None = None
    pause: int | None = None


@dataclass(frozen=True)
class StagedArtifact:
    """An artifact that is not yet published: files in the run's work folder and what loads them.

    ``scores`` are the task's measures on the validation split, where the plugin took them anyway. ``costs`` are
    what the work took (``seconds``, ``peak_memory_bytes`` …); they go into the lineage.
    """

    folder: Path
    engine: str = "torch"
    form: str = TRAINABLE
    labels: tuple[str, ...] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialResult:
    """What a trial gave: its number (higher is better), and what it cost.

    Of a training the number is the task's objective, of a recipe what ``recipes.score`` says. ``scores`` are on the
    validation split. ``measures`` are a recipe's figures.
    """

    objective: float
    scores: Mapping[str, float]
    steps: int
    seconds: float = 0.0
    measures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AuxiliaryLoss:
    """What a training learns from besides the labels.

    ``loss`` is an entry point of ``fastserve.losses``, and ``options`` are what its provider reads: JSON values.
    """

    loss: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class RetrainRequest:
    """What a compressor asks ``run.retrain`` for: a model, options in place of the trainer's own, a lesson, and files
    and rows of texts without labels that are learnt from besides the training split."""

    model: Artifact
    folder: Path
    options: Mapping[str, Any]
    lesson: AuxiliaryLoss | None = None
    unlabelled: Sequence[str] = ()
    rows: Iterable[Row] = ()


class Server(Protocol):
    """A running server."""

    url: str

    def wait(self) -> None:
        """Block until the server ends; raises ``StageFailed`` when it crashed."""

    def stop(self) -> None:
        """Drain and end it."""


@dataclass(frozen=True)
class TrialRequest:
    """What a tuner asks ``run.attempt`` for.

    ``repeat`` counts the trainings with the same options: each has a seed of its own, and with ``folds`` the next of
    that many folds to validate on. ``threads`` is its share of the cores where others run beside it; it ends without
    a result soon after ``stop`` was set. ``elsewhere`` has it done on another machine: given an order, it gives what
    ``remote_training.carry_out`` does there.
    """

    number: int
    options: Mapping[str, Any]
    budget: Budget
    repeat: int = 0
    folds: int | None = None
    threads: int | None = None
    stop: Flag | None = None
    elsewhere: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Run:
    """Everything a verb needs: the model so far, the data, a folder to work in, and someone to tell.

    ``folder`` survives a kill: what a verb left there last time it finds again. ``trainer`` holds the
    trainer's options by path, ``recipe`` the compressors' where the tuner ``searches`` those, and ``fixed`` the paths
    that the user set (a tuner leaves them alone); ``suggested`` is the space that the trainer would search, the most
    important option first. All are empty for other verbs. A trainer is given a
    ``lesson`` by a compressor that has it train; a compressor is given the ``original``: the model before the
    first compressor.
    """

    model: Artifact
    task: Task
    folder: Path
    seed: int
    threads: int
    emit: Callable[[Event], None]
    source: Dataset | None = None
    budget: Budget = field(default_factory=Budget)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()
    suggested: Mapping[str, Any] = field(default_factory=dict)
    attempting: Callable[[TrialRequest], TrialResult] | None = None
    giving_up: Callable[[int], None] | None = None
    lesson: AuxiliaryLoss | None = None
    original: Artifact | None = None
    retraining: Callable[[RetrainRequest], StagedArtifact] | None = None

    @property
    def data(self) -> Dataset:
        """The splits; raises ``InvalidPlan`` when the run was given none."""
        if self.source is None:
            raise InvalidPlan("this stage needs data: give data.train=FILE or data=NAME")
        return self.source

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels by their number."""
        return tuple(self.task.labels)

    def fresh_folder(self, name: str = "draft") -> Path:
        """An empty folder in the work folder; what a killed attempt left in it is gone."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def attempt(self, number: int, options: Mapping[str, Any], budget: Budget, **more: Any) -> TrialResult:
        """Have the trainer, the compressors or both do one trial with some options replaced; for tuners.

        Options are by path (``train.torch_ddp.lr``), ``more`` is as ``TrialRequest`` has it. Several trainings may
        be asked
        for at once, from a thread each. Raises ``StageFailed`` when the trial fails.
        """
        if self.attempting is None:
            raise InvalidPlan("only a tuner's run can make attempts")
        return self.attempting(TrialRequest(number, options, budget, **more))

    def give_up(self, number: int) -> None:
        """For tuners: an attempt that was paused is not gone on with."""
        if self.giving_up is not None:
            self.giving_up(number)

    def retrain(
        self,
        model: Artifact,
        options: Mapping[str, Any],
        lesson: AuxiliaryLoss | None = None,
        unlabelled: Sequence[str] = (),
        rows: Iterable[Row] = (),
    ) -> StagedArtifact:
        """Have the trainer train a model once more, in a folder of this run's; for compressors.

        ``options`` are the trainer's own, by name, in place of what the user set. ``unlabelled`` are files whose texts
        the lesson alone speaks of, and so are ``rows``, which are as ``run.data`` has them but for a label, and are
        iterated more than once. A killed training goes on from its checkpoint. Raises ``StageFailed`` when it fails,
        ``InvalidData`` for files that cannot be used.
        """
        if self.retraining is None:
            raise InvalidPlan("there is no trainer to train with: add one, e.g. +plugin=[torch_ddp,…]")
        folder = self.folder / "training"
        folder.mkdir(exist_ok=True)
        return self.retraining(RetrainRequest(model, folder, options, lesson, unlabelled, rows))
