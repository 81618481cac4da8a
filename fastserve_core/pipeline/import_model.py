"""Imports a model that was trained elsewhere or on other data into the store, measured on this run's data."""

from __future__ import annotations

import time
from dataclasses import replace

from fastserve_core.artifacts.artifact import Artifact, load_artifact
from fastserve_core.artifacts.checkpoint import list_model_files, read_config
from fastserve_core.artifacts.files import copy_tree
from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import result_id
from fastserve_core.errors import ModelError
from fastserve_core.events import StageStarted
from fastserve_core.inference.engines import AUTO
from fastserve_core.pipeline.produce import seal
from fastserve_core.pipeline.record import StageRecord
from fastserve_core.pipeline.session import Session
from fastserve_core.plugins.requests import StagedArtifact


def has_measurements_for(session: Session, model: Artifact) -> bool:
    """Return whether the model was measured on this run's data, so that candidates can be compared with it."""
    data = session.fingerprint
    return bool(model.measures) and model.manifest.lineage[-1].get("data") == data


def import_checkpoint(session: Session, model: Artifact) -> Artifact:
    """Publish a checkpoint as an artifact, with measurements if the run has data.

    Raises:
        ModelError: The checkpoint was not trained for the task, or lacks labels of the data.
    """
    _check_importable(session, model)
    begin = time.perf_counter()
    with session.store.claim(imported_artifact_id(session, model), session.warn) as claim:
        status = "reused" if claim.is_published else "done"
        if not claim.is_published:
            session.emit(StageStarted("model", "checkpoint"))
            folder = claim.partial / "draft"
            copy_tree(model.folder, folder, list(model.manifest.files) or list_model_files(model.folder))
            session.settings.task.complete_checkpoint(folder)
            draft = StagedArtifact(folder, _choose_engine(session, model), model.form, tuple(model.manifest.labels))
            data = session.fingerprint
            entry = {"stage": "model", "plugin": "checkpoint", "data": data, "parent": model.digest}
            seal(session, draft, model, entry)
            claim.publish(folder)
    artifact = load_artifact(claim.final)
    seconds = round(time.perf_counter() - begin, 2)
    stage = StageRecord("model", "checkpoint", "", status, seconds, str(claim.final), artifact.digest)
    session.record_stage(replace(stage, measures=artifact.measures))
    return artifact


def _choose_engine(session: Session, model: Artifact) -> str:
    """Return the engine to start from: without data none is measured, and the option decides."""
    option = session.settings.general.engine
    return model.engine if session.data is not None or option == AUTO else option


def imported_artifact_id(session: Session, model: Artifact) -> str:
    """Return the name of the imported artifact in the store."""
    task, data = session.settings.task, session.data
    engine = session.settings.general.engine
    key = stable_hash([model.digest, data.fingerprint if data else "", task.name, vars(task.options), engine])
    return result_id("model", "checkpoint", key)


def _check_importable(session: Session, model: Artifact) -> None:
    task = session.settings.task
    classes = read_config(model.folder).get("architectures") or ["?"]
    if not task.accepts_model(str(classes[0])):
        raise ModelError(
            f"{model.folder} is a {classes[0]}, without a trained head for {task.name}: "
            "train it first, e.g. with +plugin=[torch_ddp,…]"
        )
    labels = session.data.labels if session.data is not None else ()
    unknown = sorted(set(labels) - set(model.manifest.labels))
    if unknown:
        raise ModelError(
            f"the model has no label '{unknown[0]}', which the data has; its labels are "
            f"{', '.join(model.manifest.labels)}"
        )
