"""Tasks by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastserve_core.config.options import typed
from fastserve_core.entry_points import provide
from fastserve_core.tasks.task import Task


def load_task(name: str, options: Mapping[str, Any], labels: Sequence[str] = ()) -> Task:
    """The task of that name with its options, raising ``UnknownName`` or ``BadOption``."""
    kind = provide("fastserve.tasks", name)
    task: Task = kind(typed(kind.Options, options, "task"), labels)
    return task
