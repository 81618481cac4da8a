"""Another artifact in the place of the one that is served: loaded beside it, then asked instead of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from starlette.applications import Starlette

from fastserve_core.artifact import Artifact, load_artifact
from fastserve_core.errors import BadArtifact
from fastserve_server.service import Service, freeze

MEMORY = Path("/proc/meminfo")
SPARE_BYTES = 200_000_000
"""What has to be left for everything else, once the second model is loaded."""


async def reload(application: Starlette, folder: Path, threads: int) -> asyncio.Task[None] | None:
    """Serve another artifact from now on; the old one answers what was asked of it, and the task then ends it.

    ``None`` where the same artifact is served already. Raises ``BadArtifact`` for one of another task or with other
    labels, one that there is no memory for beside the old one, and what loading it fails with; the old one is then
    served as before.
    """
    old: Service = application.state.service
    artifact = load_artifact(folder, verify=True)
    if artifact.digest == old.artifact.digest:
        return None
    _check(artifact, old)
    # clients know the model by the name that it had first
    new = Service(artifact, replace(old.options, name=old.name), threads, old.metrics)
    new.start()
    try:
        await new.loaded()
    except BaseException:
        await new.stop()
        old.metrics.watch_queue(lambda: old.batcher.depth)
        raise
    new.draining = old.draining
    application.state.service = new
    return asyncio.create_task(_retire(old))


async def _retire(old: Service) -> None:
    await old.answered()
    await old.stop()
    freeze()


def _check(artifact: Artifact, old: Service) -> None:
    made_for, served_for = _purpose(artifact), _purpose(old.artifact)
    if made_for != served_for:
        raise BadArtifact(
            f"{artifact.folder} is for {made_for}, and what is served for {served_for}: start another server for it"
        )
    needed, free = _bytes_of(artifact) + SPARE_BYTES, free_memory()
    if free is not None and needed > free:
        raise BadArtifact(
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
