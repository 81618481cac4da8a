"""Start the child process of a compressor."""

from __future__ import annotations

from typing import Any

from fastserve_core.plugins import CompressContext, StagedArtifact


def run_compressor(module: str, run: CompressContext, threads: int | None = None, **arguments: Any) -> StagedArtifact:
    """Run a module as a child process and return the draft that it writes.

    Args:
        module: Name of the module.
        run: Context of the call.
        threads: Number of threads; None is the run's own.
        arguments: Arguments of the module besides ``model``, ``draft`` and ``task``.
    """
    from fastserve_core.processes import PRELOAD_MODULES, run_in_child

    draft = run.clean_folder()
    task = [run.task.name, vars(run.task.options), list(run.labels)]
    request = {"model": run.model.folder, "draft": draft, "task": task, **arguments}
    run_in_child(module, request, run.threads if threads is None else threads, run.emit, PRELOAD_MODULES)
    return StagedArtifact(draft)
