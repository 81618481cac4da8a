"""The context of each verb: the current model, the data, a work folder and a callback for events."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.data.dataset import Dataset
from fastserve_core.errors import PlanError
from fastserve_core.events import Event
from fastserve_core.plugins.requests import (
    AuxiliaryLoss,
    Budget,
    RetrainRequest,
    StagedArtifact,
    TrialRequest,
    TrialResult,
)
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """The context of a hook call; the base class of each verb's context.

    Attributes:
        model: The current model.
        task: The run's task, with the labels in the order of the model's outputs.
        folder: The work folder. It survives a kill, so that a verb can resume from its files.
        seed: The run's seed.
        threads: The number of threads that the verb may use.
        emit: Reports an event to the observers.
    """

    model: Artifact
    task: Task
    folder: Path
    seed: int
    threads: int
    emit: Callable[[Event], None]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels by their index in the model's outputs."""
        return tuple(self.task.labels)

    def clean_folder(self, name: str = "draft") -> Path:
        """Make an empty folder in the work folder; files of an interrupted attempt are removed.

        Args:
            name: The name of the folder.
        """
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


@dataclass(frozen=True, kw_only=True)
class ServeContext(StageContext):
    """The context of ``serve``."""


@dataclass(frozen=True, kw_only=True)
class DataContext(StageContext):
    """The context of a verb that works on data.

    Attributes:
        data: The splits.
    """

    data: Dataset


@dataclass(frozen=True, kw_only=True)
class TrainContext(DataContext):
    """The context of ``train``.

    Attributes:
        budget: The limit of the training.
        auxiliary_loss: A loss besides that of the labels, if a compressor requested this training.
    """

    budget: Budget = field(default_factory=Budget)
    auxiliary_loss: AuxiliaryLoss | None = None


@dataclass(frozen=True, kw_only=True)
class TuneContext(DataContext):
    """The context of ``tune``.

    Attributes:
        trainer_options: The options of the trainer and of the task's training by path, if the tuner searches them.
        compressor_options: The compressors' options by path, if the tuner searches them.
        user_overrides: Paths of options that the user set; a tuner does not search them.
        default_search_space: The space that the trainer proposes, by path, the most important option first.
        trial_runner: Runs one trial; used by ``run_trial``.
        trial_discarder: Removes the files of a trial; used by ``discard_trial``.
    """

    trainer_options: Mapping[str, Any] = field(default_factory=dict)
    compressor_options: Mapping[str, Any] = field(default_factory=dict)
    user_overrides: frozenset[str] = frozenset()
    default_search_space: Mapping[str, Any] = field(default_factory=dict)
    trial_runner: Callable[[TrialRequest], TrialResult]
    trial_discarder: Callable[[int], None]

    def run_trial(self, number: int, options: Mapping[str, Any], budget: Budget, **more: Any) -> TrialResult:
        """Run one trial of the trainer, the compressors or both with some options replaced.

        Several trials may run at the same time, each in its own thread.

        Args:
            number: The trial's number, counted from 0.
            options: Replaced options by path, such as ``train.torch_ddp.lr``.
            budget: The limit of the trial's training.
            more: Further attributes of ``TrialRequest``.

        Returns:
            The trial's objective, scores and costs.

        Raises:
            StageError: The trial failed.
        """
        return self.trial_runner(TrialRequest(number, options, budget, **more))

    def discard_trial(self, number: int) -> None:
        """Remove the checkpoints of a stopped trial that will not be resumed.

        Args:
            number: The trial's number.
        """
        self.trial_discarder(number)


@dataclass(frozen=True, kw_only=True)
class CompressContext(DataContext):
    """The context of ``compress``.

    Attributes:
        original: The model before the first compressor.
        retrainer: Trains a model with the run's trainer, used by ``retrain``; ``None`` if the run has no trainer.
    """

    original: Artifact
    retrainer: Callable[[RetrainRequest], StagedArtifact] | None = None

    def retrain(
        self,
        model: Artifact,
        options: Mapping[str, Any],
        auxiliary_loss: AuxiliaryLoss | None = None,
        unlabelled: Sequence[str] = (),
        rows: Iterable[Row] = (),
    ) -> StagedArtifact:
        """Train a model with the run's trainer, in the work folder; an interrupted training is resumed.

        Args:
            model: The model to train.
            options: The trainer's options by name, in place of the user's.
            auxiliary_loss: A loss besides that of the labels.
            unlabelled: Files of texts for the auxiliary loss alone.
            rows: Rows like those of ``data``, without labels, for the auxiliary loss alone; iterated more than once.

        Returns:
            The trained model, not yet published.

        Raises:
            PlanError: The run has no trainer.
            DataError: A file cannot be used.
            StageError: The training failed.
        """
        if self.retrainer is None:
            raise PlanError("this compressor needs a trainer: add one, e.g. +plugin=[torch_ddp,…]")
        folder = self.folder / "training"
        folder.mkdir(exist_ok=True)
        return self.retrainer(RetrainRequest(model, folder, options, auxiliary_loss, unlabelled, rows))
