"""Rows whose labels a trained model doubts most: the labels may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from fastserve_core.data.dataset import Dataset
from fastserve_core.inference.predictor import WatchBatch
from fastserve_core.tasks.encoded import Arrays, Encoded
from fastserve_core.tasks.task import Task

MAX_ROWS = 20
MAX_CHARACTERS = 1000
MIN_SCORE = 0.8
"""The probability that the model gives to its own answer; below it, a mistake of the model is as likely."""


class DoubtedRows:
    """Collects the rows of splits on which a model contradicts the label.

    Args:
        task: The task.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._rows: list[dict[str, Any]] = []

    def watch(self, split: str) -> WatchBatch:
        """Return a function that collects the rows of a split as they are scored."""
        return partial(self._add, split)

    def _add(self, split: str, numbers: Sequence[int], outputs: Arrays, batch: Sequence[Encoded]) -> None:
        for number, doubt in zip(numbers, self._task.find_doubts(outputs, batch), strict=True):
            if doubt is not None and doubt.score >= MIN_SCORE:
                self._rows.append({"split": split, "row": number, **asdict(doubt)})

    def list_worst(self) -> list[dict[str, Any]]:
        """Return the rows that are doubted most, by split and number in the prepared data, with label and answer."""
        worst = sorted(self._rows, key=lambda row: (-row["score"], row["split"], row["row"]))[:MAX_ROWS]
        return [{**row, "score": round(row["score"], 4)} for row in worst]


def read_doubted(rows: Sequence[dict[str, Any]], data: Dataset, task: Task) -> list[dict[str, Any]]:
    """Return doubted rows with the columns of the data that are not labels as ``input``; long texts are cut."""
    found = []
    for row in rows:
        values = data.rows(row["split"])[row["row"]]
        inputs = {name: _cut(value) for name, value in values.items() if name not in task.label_columns}
        found.append({**row, "input": inputs})
    return found


def _cut(value: Any) -> Any:
    is_long = isinstance(value, str) and len(value) > MAX_CHARACTERS
    return f"{value[:MAX_CHARACTERS]}…" if is_long else value
