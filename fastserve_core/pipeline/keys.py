"""The cache key of a stage's result: everything that decides the result, and nothing else."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastserve_core.artifacts.artifact import Artifact, load_artifact
from fastserve_core.artifacts.files import expand_user
from fastserve_core.artifacts.hashing import hash_file, hash_files, stable_hash
from fastserve_core.artifacts.store import result_id
from fastserve_core.data.paths import expand_path
from fastserve_core.errors import DataError
from fastserve_core.pipeline.cache import content_key
from fastserve_core.pipeline.session import Session
from fastserve_core.plugins.base import Compressor
from fastserve_core.plugins.hookspecs import API_VERSION
from fastserve_core.plugins.registry import ActivePlugin


def stage_key(
    session: Session, active: ActivePlugin[Any], model: Artifact, original: Artifact | None = None
) -> dict[str, Any]:
    """Return everything that decides a stage's result.

    Args:
        session: The run.
        active: The plugin that makes the result.
        model: The model that the stage begins with.
        original: The model before the first compressor. A compressor that trains also depends on it and on the
            trainer.
    """
    settings = session.settings
    key = {
        "plugin": [active.section, active.name, active.version, API_VERSION],
        "options": _option_key(active),
        "model": model.digest,
        "task": [settings.task.name, vars(settings.task.options)],
        "data": session.fingerprint,
        "seed": settings.general.seed,
        "engine": settings.general.engine,
        "training": _training_key(session, active, original),
    }
    return key if session.budget.steps is None else key | {"steps": session.budget.steps}


def _option_key(active: ActivePlugin[Any]) -> dict[str, Any]:
    plugin = active.plugin
    options = {name: value for name, value in asdict(active.options).items() if name not in plugin.not_in_key}
    for name in plugin.reads_files:
        options[name] = _hash_paths(options[name], f"{active.path}.{name}")
    for name in plugin.reads_artifacts:
        options[name] = load_artifact(expand_user(options[name])).digest if options[name] else None
    return options


def _hash_paths(given: Any, option: str) -> list[Any]:
    """Hash files by their contents and suffixes, which decide how they are read; their places do not."""
    hashes: list[Any] = []
    for path in [given] if isinstance(given, str) else given or ():
        found = [file for file in expand_path(path) if file.exists()]
        if not found:
            raise DataError(f"{option}: the file {path} does not exist")
        hashes += [hash_files(file) if file.is_dir() else [file.suffixes, hash_file(file)] for file in found]
    return hashes


def _training_key(session: Session, active: ActivePlugin[Any], original: Artifact | None) -> list[Any]:
    plugin, trainer = active.plugin, session.registry.trainer
    if original is None or trainer is None or not (isinstance(plugin, Compressor) and plugin.trains):
        return []
    return [content_key(stage_key(session, trainer, original)), original.digest]


def stage_result_id(
    session: Session, active: ActivePlugin[Any], model: Artifact, original: Artifact | None = None
) -> str:
    """Return the name of a stage's result in the store."""
    return result_id(active.section, active.name, stable_hash(stage_key(session, active, model, original)))
