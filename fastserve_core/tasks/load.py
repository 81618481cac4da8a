"""Tasks by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from fastserve_core.config.options import parse_options
from fastserve_core.entry_points import all_entry_points, load_entry_point
from fastserve_core.tasks.task import Task

TASK_GROUP = "fastserve.tasks"
"""The group of entry points of tasks."""


def load_task(name: str, options: Mapping[str, Any], labels: Sequence[str] = ()) -> Task:
    """The task of that name with its options, raising ``UnknownNameError`` or ``OptionError``."""
    kind = load_entry_point(TASK_GROUP, name)
    task: Task = kind(parse_options(kind.Options, options, "task"), labels)
    return task


def installed_tasks() -> list[str]:
    """Return the names of the installed tasks."""
    return sorted(entry.name for entry in all_entry_points().select(group=TASK_GROUP))


def task_option_names(name: str) -> list[str]:
    """Return the names of a task's options, raising ``UnknownNameError``."""
    return [field.name for field in fields(load_entry_point(TASK_GROUP, name).Options)]
