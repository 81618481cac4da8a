"""Answers of two models are compared without their scores."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve_core.tasks.answers import without_scores


@pytest.mark.parametrize(("answer", "expected"), [
    ({"label": "positive", "score": 0.9, "scores": {"positive": 0.9, "negative": 0.1}}, {"label": "positive"}),
    ({"tags": ["O"], "entities": [{"type": "PER", "start": 3, "score": 0.5}]},
     {"tags": ["O"], "entities": [{"type": "PER", "start": 3}]}),
])  # fmt: skip
def test_how_sure_a_model_is_decides_nothing(answer: dict[str, Any], expected: dict[str, Any]) -> None:
    assert without_scores(answer) == expected
