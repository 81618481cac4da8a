"""A training as JSON, for a process on another machine that sees the same files: what to train, on what, how far."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import Artifact, Manifest
from fastserve_core.data.dataset import load_dataset
from fastserve_core.errors import FastServeError, StageFailed
from fastserve_core.plugins.contexts import Budget, Run, StagedArtifact
from fastserve_core.plugins.registry import Registry
from fastserve_core.tasks.load import load_task

if TYPE_CHECKING:
    from fastserve_core.plugins.registry import ActivePlugin


def serialize_trial(active: ActivePlugin, run: Run) -> dict[str, Any]:
    """What ``run_remote_trial`` needs to have the trainer do this run."""
    return {
        "trainer": [active.name, asdict(active.options)],
        "model": str(run.model.folder),
        "manifest": [run.model.digest, asdict(run.model.manifest)],
        "task": [run.task.name, vars(run.task.options), list(run.labels)],
        "data": str(run.data.folder),
        "folder": str(run.folder),
        "seed": run.seed,
        "threads": run.threads,
        "budget": asdict(run.budget),
    }


def run_remote_trial(order: Mapping[str, Any]) -> dict[str, Any]:
    """Train as ordered; gives the attempt's ``scores`` and ``steps``, or the ``error`` that it failed with."""
    try:
        for folder in ("model", "data", "folder"):
            if not Path(order[folder]).is_dir():
                raise StageFailed(
                    f"{socket.gethostname()} does not see {order[folder]}: FASTSERVE_HOME must be on a disk that all "
                    "machines share"
                )
        registry = Registry()
        active = registry.activate("train", *order["trainer"])
        run = Run(
            model=_model(order),
            task=load_task(*order["task"]),
            folder=Path(order["folder"]),
            seed=order["seed"],
            threads=order["threads"],
            emit=lambda event: None,
            source=load_dataset(Path(order["data"])),
            budget=Budget(**order["budget"]),
        )
        draft: StagedArtifact = registry.call(active, "train", run=run)
        return {"scores": dict(draft.scores), "steps": draft.steps}
    except FastServeError as error:
        return {"error": str(error)}


def _model(order: Mapping[str, Any]) -> Artifact:
    """Its manifest comes along, for a model that is started from need not have one beside its files."""
    digest, manifest = order["manifest"]
    return Artifact(Path(order["model"]), digest, Manifest(**manifest))
