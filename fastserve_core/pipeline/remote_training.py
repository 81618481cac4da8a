"""A training as JSON, for a process on another machine that sees the same files: what to train, on what, how far."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import Artifact, Manifest
from fastserve_core.data.dataset import load_dataset
from fastserve_core.errors import FastServeError, StageFailed
from fastserve_core.plugins.contexts import TrainContext
from fastserve_core.plugins.registry import ActivePlugin, Registry
from fastserve_core.plugins.requests import Budget, StagedArtifact
from fastserve_core.tasks.load import load_task


def serialize_trial(active: ActivePlugin[Any], context: TrainContext) -> dict[str, Any]:
    """What ``run_remote_trial`` needs to have the trainer do this run."""
    return {
        "trainer": [active.name, asdict(active.options)],
        "model": str(context.model.folder),
        "manifest": [context.model.digest, asdict(context.model.manifest)],
        "task": [context.task.name, vars(context.task.options), list(context.labels)],
        "data": str(context.data.folder),
        "folder": str(context.folder),
        "seed": context.seed,
        "threads": context.threads,
        "budget": asdict(context.budget),
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
        context = TrainContext(
            model=_model(order),
            task=load_task(*order["task"]),
            folder=Path(order["folder"]),
            seed=order["seed"],
            threads=order["threads"],
            emit=lambda event: None,
            data=load_dataset(Path(order["data"])),
            budget=Budget(**order["budget"]),
        )
        draft: StagedArtifact = registry.call(active, "train", run=context)
        return {"scores": dict(draft.scores), "steps": draft.steps}
    except FastServeError as error:
        return {"error": str(error)}


def _model(order: Mapping[str, Any]) -> Artifact:
    """Its manifest comes along, for a model that is started from need not have one beside its files."""
    digest, manifest = order["manifest"]
    return Artifact(Path(order["model"]), digest, Manifest(**manifest))
