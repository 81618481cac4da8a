"""The same result measured for another engine: what was made is not made again, it is measured again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import MANIFEST, Artifact, is_artifact, load_artifact
from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.plugins.requests import StagedArtifact

if TYPE_CHECKING:
    from fastserve_core.artifacts.store import Store
    from fastserve_core.plugins.registry import ActivePlugin

MEASUREMENT_KEYS = "engine"
"""The part of a stage's key that decides how its result is measured, and not what it is."""


def content_key(key: Mapping[str, Any]) -> str:
    """What decides the bytes of a stage's result; it stands in the result's lineage."""
    return stable_hash({name: value for name, value in key.items() if name != MEASUREMENT_KEYS})


def find_equivalent_result(store: Store, active: ActivePlugin[Any], key: Mapping[str, Any]) -> Artifact | None:
    """A published result with the same bytes, measured for another engine."""
    wanted = content_key(key)
    for folder in store.results(active.place, active.name):
        if is_artifact(folder) and (found := load_artifact(folder)).manifest.lineage[-1].get("made_of") == wanted:
            return found
    return None


def link_result(twin: Artifact, folder: Path) -> StagedArtifact:
    """The twin's files in a folder of their own, to be measured; links, where the disk has them."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(twin.folder, folder, ignore=shutil.ignore_patterns(MANIFEST), copy_function=_link)
    manifest = twin.manifest
    return StagedArtifact(folder, str(manifest.runtime.get("named", twin.engine)), twin.form, tuple(manifest.labels))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
