"""Another artifact in the place of the one that is served: loaded beside it, then asked instead of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastserve_core.artifacts import Artifact, load_artifact
from fastserve_core.errors import InvalidArtifact, did_you_mean
from fastserve_server.model_registry import ModelRegistry
from fastserve_server.service import Service, refreeze

MEMORY = Path("/proc/meminfo")
SPARE_BYTES = 200_000_000
"""What has to be left for everything else, once the second model is loaded."""


async def reload(models: ModelRegistry, folder: Path, name: str | None = None) -> asyncio.Task[None] | None:
    """Serve another artifact from now on, under the name of a model, the first's when ``None``. The old one answers
    what was asked of it, and the task then ends it.

    ``None`` where the same artifact is served already. Raises ``InvalidArtifact`` for one of another task or with other
    labels, one that there is no memory for beside the old one, and what loading it fails with; the old one is then
    served as before.
    """
    if name is not None and name not in models.names:
        raise InvalidArtifact(f"no model is called '{name}' here{did_you_mean(name, models.names)}")
    old = models.get(name)
    artifact = load_artifact(folder, verify=True)
    if artifact.digest == old.artifact.digest:
        return None
    check_memory_for_second(artifact, old)
    new = models.service(artifact, old.name)  # clients know the model by the name that it had first
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
    """Raise ``InvalidArtifact`` for one of another task or with other labels, or that there is no memory for."""
    made_for, served_for = _purpose(artifact), _purpose(old.artifact)
    if made_for != served_for:
        raise InvalidArtifact(
            f"{artifact.folder} is for {made_for}, and what is served for {served_for}: start another server for it"
        )
    needed, free = _bytes_of(artifact) + SPARE_BYTES, free_memory()
    if free is not None and needed > free:
        raise InvalidArtifact(
            f"there is no memory for a second model: {artifact.folder} needs some {needed // 1_000_000} MB beside the "
            f"one that is served, and {free // 1_000_000} MB are free; end the server and start it anew"
        )


def _purpose(artifact: Artifact) -> str:
    labels = ", ".join(artifact.manifest.labels)
    return artifact.manifest.task + (f" with the labels {labels}" if labels else "")


def _bytes_of(artifact: Artifact) -> int:
    return int(artifact.manifest.measures.get("peak_memory_bytes") or artifact.size_bytes)


def free_memory() -> int | None:
    """Bytes that new processes can have without swapping; ``None`` where the system does not say."""
    if not MEMORY.is_file():
        return None
    lines = dict(line.split(":", 1) for line in MEMORY.read_text(encoding="ascii").splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])
