"""Starts the process that makes a compressor's draft: what each of them is told, and what comes back."""

from __future__ import annotations

from typing import Any

from fastserve_core.plugins.contexts import Draft, Run


def made_by(module: str, run: Run, threads: int | None = None, **more: Any) -> Draft:
    """The draft that a module's process writes; ``more`` are its own arguments besides model, draft and task."""
    from fastserve_core.processes.child import TRANSFORMERS, call

    draft = run.fresh_folder()
    task = [run.task.name, vars(run.task.options), list(run.labels)]
    request = {"model": run.model.folder, "draft": draft, "task": task, **more}
    call(module, request, run.threads if threads is None else threads, run.emit, TRANSFORMERS)
    return Draft(draft)
