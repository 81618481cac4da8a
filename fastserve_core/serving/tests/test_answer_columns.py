"""The columns of scored tables."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from fastserve_core.serving.answer_columns import AnswerColumns
from fastserve_core.tasks import load_task
from fastserve_core.tasks.load import TASK_GROUP


@pytest.mark.parametrize(
    "name",
    sorted(
        {entry.name for entry in entry_points(group=TASK_GROUP) if entry.value.startswith("fastserve_")} - {"search"}
    ),
)
def test_a_row_without_an_answer_has_its_reason(name: str) -> None:
    columns = AnswerColumns(load_task(name, {}, ("a", "b")), ["text"], print)
    assert columns.add({"text": "x"}, {"error": "is empty"}) == {"text": "x", "error": "is empty"}
