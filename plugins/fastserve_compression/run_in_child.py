"""Starts the process that makes a compressor's draft: what each of them is told, and what comes back."""

from __future__ import annotations

from typing import Any

from fastserve_core.plugins import CompressContext, StagedArtifact


def run_in_child(module: str, run: CompressContext, threads: int | None = None, **more: Any) -> StagedArtifact:
    """The draft that a module's process writes; ``more`` are its own arguments besides model, draft and task."""
    from fastserve_core.processes import PRELOAD_MODULES, run_in_child

    draft = run.clean_folder()
    task = [run.task.name, vars(run.task.options), list(run.labels)]
    request = {"model": run.model.folder, "draft": draft, "task": task, **more}
    run_in_child(module, request, run.threads if threads is None else threads, run.emit, PRELOAD_MODULES)
    return StagedArtifact(draft)
