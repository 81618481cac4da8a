"""``run.json``: the record of a run, rewritten after every stage so that a killed run has one too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fastserve_core.artifacts.files import write_json

if TYPE_CHECKING:
    from fastserve_core.data.dataset import Dataset
    from fastserve_core.tasks.task import Task

SCHEMA = 1


@dataclass(frozen=True)
class StageRecord:
    """The record of one stage in ``run.json``.

    Attributes:
        stage: The stage; ``model`` for an imported checkpoint.
        plugin: The plugin's name.
        version: The version of the plugin's distribution.
        status: ``done``, ``reused``, ``rejected`` or ``failed``.
        seconds: Wall time.
        artifact: The folder of the result.
        digest: The digest of the result.
        options: The plugin's options.
        measures: The measurements of the result.
        reason: Why the candidate was rejected or the stage failed.
        found: The best options of a search, by path.
        trials: The trials of a search.
    """

    stage: str
    plugin: str
    version: str = ""
    status: str = ""
    seconds: float = 0.0
    artifact: str = ""
    digest: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    found: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> Self:
        """Read a stage of ``run.json``; keys that this version does not know are ignored."""
        known = {attribute.name for attribute in fields(cls)}
        return cls(**{name: value for name, value in line.items() if name in known})


@dataclass
class RunRecord:
    """The content of ``run.json``.

    Attributes:
        folder: The run's folder; without one the record exists in memory only.
        task: The name of the task.
        seed: The run's seed.
        command: The arguments of the command line.
        metrics: The fields of the task's ``MetricSpec`` by the name of the score.
        status: ``running``, ``done``, ``failed`` or ``interrupted``.
        best: The folder of the best artifact so far.
        error: Why the run failed.
        data: Fingerprint, counts of rows, and labels of the data.
        doubted_rows: The rows that the best model doubts most, with their labels and the model's answers.
        samples: Validation rows with the answers of the model before the training and after each stage.
        learning_curve: Scores of trainings on parts of the rows, and a forecast; empty if the run made none.
        stages: The stages so far.
    """

    folder: Path | None
    task: str
    seed: int
    command: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    status: str = "running"
    best: str = ""
    error: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    doubted_rows: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    learning_curve: dict[str, Any] = field(default_factory=dict)
    stages: list[StageRecord] = field(default_factory=list)

    @classmethod
    def of(cls, task: Task, seed: int, folder: Path | None = None, command: str = "") -> RunRecord:
        """Return the record of a run that begins, with the metrics that its task declares."""
        metrics = {task.main_metric: task.metrics[task.main_metric], **task.metrics} if task.metrics else {}
        return cls(folder, task.name, seed, command, {name: asdict(spec) for name, spec in metrics.items()})

    def describe_data(self, data: Dataset) -> None:
        """Add a summary of the data."""
        self.data = {
            "fingerprint": data.fingerprint,
            "rows": dict(data.counts),
            "labels": list(data.labels),
            "bad_rows": len(data.bad_rows),
            "notes": list(data.notes),
        }

    def as_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        values = {name: value for name, value in asdict(self).items() if name != "folder"}
        return {"schema": SCHEMA} | values

    def write(self) -> None:
        """Write ``run.json`` if the record has a folder."""
        if self.folder is not None:
            write_json(self.folder / "run.json", self.as_json())
