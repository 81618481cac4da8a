"""A training as a JSON object, to be run by a process on another machine that sees the same files."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import Artifact, Manifest
from fastserve_core.data.dataset import load_dataset
from fastserve_core.errors import FastServeError, StageError, TransientError
from fastserve_core.plugins.contexts import TrainContext
from fastserve_core.plugins.registry import ActivePlugin, Registry
from fastserve_core.plugins.requests import Budget, StagedArtifact
from fastserve_core.plugins.verbs import call_verb
from fastserve_core.tasks.load import load_task


def serialize_trial(active: ActivePlugin[Any], context: TrainContext) -> dict[str, Any]:
    """Serialize a training for ``run_remote_trial``.

    Args:
        active: The trainer.
        context: The context of the training.

    Returns:
        A JSON object.
    """
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


def run_remote_trial(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Run a training that ``serialize_trial`` serialized.

    Args:
        trial: The serialized training.

    Returns:
        The trial's ``scores`` and ``steps``; or its ``error``, and whether the machine caused it (``is_transient``).
    """
    try:
        for folder in ("model", "data", "folder"):
            if not Path(trial[folder]).is_dir():
                raise StageError(
                    f"{socket.gethostname()} does not see {trial[folder]}: FASTSERVE_HOME must be on a disk that all "
                    "machines share"
                )
        registry = Registry()
        active = registry.activate("train", *trial["trainer"])
        context = TrainContext(
            model=_deserialize_model(trial),
            task=load_task(*trial["task"]),
            folder=Path(trial["folder"]),
            seed=trial["seed"],
            threads=trial["threads"],
            emit=lambda event: None,
            data=load_dataset(Path(trial["data"])),
            budget=Budget(**trial["budget"]),
        )
        staged: StagedArtifact = call_verb(registry, active, "train", context)
        return {"scores": dict(staged.scores), "steps": staged.steps}
    except FastServeError as error:
        return {"error": str(error), "is_transient": isinstance(error, TransientError)}


def _deserialize_model(trial: Mapping[str, Any]) -> Artifact:
    # the manifest is serialized too, because a checkpoint has none beside its files
    digest, manifest = trial["manifest"]
    return Artifact(Path(trial["model"]), digest, Manifest(**manifest))
