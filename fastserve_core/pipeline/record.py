"""``run.json``: what a run did, written anew after every stage so that a killed run has one too."""

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
    """One stage's line in ``run.json``; ``status`` is done, reused, rejected or failed."""

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
        """From a line of ``run.json``; what this version does not know is left out."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in line.items() if name in known})


@dataclass
class RunRecord:
    """The whole of ``run.json``; without a folder it is only kept in memory.

    ``metrics`` are the fields of the task's ``MetricSpec`` by the score's name.
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
    stages: list[StageRecord] = field(default_factory=list)

    @classmethod
    def of(cls, task: Task, seed: int, folder: Path | None = None, command: str = "") -> RunRecord:
        """Return the record of a run that begins, with the metrics that its task declares."""
        return cls(folder, task.name, seed, command, {name: asdict(spec) for name, spec in task.metrics.items()})

    def describe_data(self, data: Dataset) -> None:
        self.data = {
            "fingerprint": data.fingerprint,
            "rows": dict(data.counts),
            "labels": list(data.labels),
            "bad_rows": len(data.bad_rows),
        }

    def as_json(self) -> dict[str, Any]:
        shown = {name: value for name, value in asdict(self).items() if name != "folder"}
        return {"schema": SCHEMA} | shown

    def write(self) -> None:
        if self.folder is not None:
            write_json(self.folder / "run.json", self.as_json())
