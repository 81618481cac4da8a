"""Results with the same bytes, measured for another engine: such a result is only measured again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import MANIFEST, Artifact, load_artifact
from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.errors import ArtifactError
from fastserve_core.plugins.requests import StagedArtifact

if TYPE_CHECKING:
    from fastserve_core.artifacts.store import Store
    from fastserve_core.plugins.registry import ActivePlugin

MEASUREMENT_KEY = "engine"
"""The entry of a stage's key that decides how its result is measured, but not its bytes."""


def content_key(key: Mapping[str, Any]) -> str:
    """Hash the part of a stage's key that decides the bytes of its result; the result's lineage holds it."""
    return stable_hash({name: value for name, value in key.items() if name != MEASUREMENT_KEY})


def find_equivalent_result(store: Store, active: ActivePlugin[Any], key: Mapping[str, Any]) -> Artifact | None:
    """Find a published result with the same bytes that was measured for another engine.

    Args:
        store: The store.
        active: The plugin that makes the result.
        key: The key of the stage.
    """
    expected = content_key(key)
    for folder in store.results(active.section, active.name):
        if _content_key_of(folder) == expected and store.find(folder.name) is not None:
            return load_artifact(folder)
    return None


def _content_key_of(folder: Path) -> object:
    """Return the content key of a result, or ``None`` if its manifest is missing or damaged."""
    try:
        return load_artifact(folder).manifest.lineage[-1].get("content_key")
    except ArtifactError:
        return None


def link_result(artifact: Artifact, folder: Path) -> StagedArtifact:
    """Link a result's files into another folder, so that they can be measured there.

    The files are copied if the file system has no hard links. An older folder is replaced.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(artifact.folder, folder, ignore=shutil.ignore_patterns(MANIFEST), copy_function=_link_or_copy)
    manifest = artifact.manifest
    engine = str(manifest.runtime.get("staged_engine", artifact.engine))
    return StagedArtifact(folder, engine, artifact.form, tuple(manifest.labels))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
