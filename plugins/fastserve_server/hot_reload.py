"""Hot reload: loads another artifact beside the served one, then replaces it without losing a request."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastserve_core.artifacts import Artifact, load_artifact
from fastserve_core.errors import ArtifactError, did_you_mean
from fastserve_core.processes import available_memory
from fastserve_server.model_registry import ModelRegistry
from fastserve_server.service import Service, refreeze

RESERVE_BYTES = 200_000_000
"""Memory that must remain available after the second model is loaded."""


async def reload(models: ModelRegistry, folder: Path, name: str | None = None) -> asyncio.Task[None] | None:
    """Replace the artifact of a model.

    The old service answers the requests that it has accepted. If the new one cannot be loaded, the old one stays.

    Args:
        models: The models of the server.
        folder: Folder of the new artifact.
        name: Name of the model; ``None`` for the first one.

    Returns:
        The task that ends the old service, or ``None`` if the same artifact is already served.

    Raises:
        ArtifactError: The artifact is damaged, has another task or other labels, or needs too much memory, or the
            server has no model of this name.
        FastServeError: Loading the artifact failed.
    """
    if name is not None and name not in models.names:
        raise ArtifactError(f"the server has no model '{name}'{did_you_mean(name, models.names)}")
    old = models.get(name)
    artifact = load_artifact(folder.resolve(), verify=True)  # a link may change before the weights are read
    if artifact.digest == old.artifact.digest:
        return None
    check_memory_for_second(artifact, old)
    new = models.service(artifact, old.name)  # clients know the model by its first name
    new.start()
    try:
        await new.wait_until_loaded()
    except BaseException:
        await new.stop()
        raise
    candidate = models.candidate
    if candidate is not None and candidate.service.artifact.digest == artifact.digest:
        candidate.retire("served now")
    elif candidate is not None and old is models.first:
        candidate.reset()
    return asyncio.create_task(_drain_and_stop(models.swap(new)))


async def _drain_and_stop(old: Service) -> None:
    await old.wait_until_idle()
    await old.stop()
    refreeze()


def check_memory_for_second(artifact: Artifact, old: Service) -> None:
    """Check that an artifact can be loaded beside a service and replace it.

    Args:
        artifact: The artifact to load.
        old: The service of the present artifact.

    Raises:
        ArtifactError: The artifact has another task or other labels, or needs more memory than is available.
    """
    new_purpose, old_purpose = _purpose(artifact), _purpose(old.artifact)
    if new_purpose != old_purpose:
        raise ArtifactError(
            f"{artifact.folder} is for {new_purpose}, but the served model is for {old_purpose}: "
            "start another server for it"
        )
    needed, available = _memory_bytes(artifact) + RESERVE_BYTES, available_memory()
    if needed > available:
        raise ArtifactError(
            f"not enough memory for a second model: {artifact.folder} needs about {needed // 1_000_000} MB, and "
            f"{available // 1_000_000} MB is available; stop the server and start it with the new model"
        )


def _purpose(artifact: Artifact) -> str:
    labels = ", ".join(artifact.manifest.labels)
    return artifact.manifest.task + (f" with the labels {labels}" if labels else "")


def _memory_bytes(artifact: Artifact) -> int:
    return int(artifact.manifest.measures.get("peak_memory_bytes") or artifact.size_bytes)
