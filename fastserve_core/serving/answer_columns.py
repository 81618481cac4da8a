"""The columns of a scored table: those of the input, and those of the answer under names that are free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastserve_core.serving.windows import ERROR
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.task import Task

PREFIX, OWN_PREFIX = "predicted_", "input_"


class AnswerColumns:
    """Names the columns of the answers of a table, so that none of the input is overwritten.

    Args:
        task: The task, which defines the columns of an answer.
        known: The names of the columns of the input.
        report: Called with a message for each column that gets another name.
    """

    def __init__(self, task: Task, known: Iterable[str], report: Callable[[str], None]) -> None:
        self._task, self._known, self._report = task, set(known), report
        self._names: dict[str, str] = {}
        self._moved: set[str] = set()

    def add(self, values: Row, answer: Mapping[str, Any]) -> Row:
        """Return a row of the input with the columns of its answer, and ``error``.

        Args:
            values: The row.
            answer: The answer, or a reason as ``error``.
        """
        columns = {} if ERROR in answer else self._task.answer_columns(answer)
        columns = {**columns, ERROR: answer.get(ERROR)}
        named = {self._choose(name): value for name, value in columns.items()}
        return {**{self._move(name, named): value for name, value in values.items()}, **named}

    def _choose(self, name: str) -> str:
        if name not in self._names:
            free = name
            while free in self._known:
                free = PREFIX + free
            self._names[name] = free
            if free != name:
                self._report(f"the answer's column '{name}' is written as '{free}'")
        return self._names[name]

    def _move(self, name: str, named: Row) -> str:
        """Return the name of an input's column, which is another one if it first occurs after the answers have it."""
        if name not in named:
            return name
        if name not in self._moved:
            self._moved.add(name)
            self._report(f"the input's column '{name}', which the first rows lack, is written as '{OWN_PREFIX}{name}'")
        return OWN_PREFIX + name
