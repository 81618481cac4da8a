"""Answers without their scores, by which those of two models are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def without_scores(answer: Any) -> Any:
    """Return an answer without its numbers with fractions, which are scores."""
    if isinstance(answer, Mapping):
        decisions = {name: without_scores(value) for name, value in answer.items() if not isinstance(value, float)}
        return {name: value for name, value in decisions.items() if value != {}}
    return [without_scores(item) for item in answer] if isinstance(answer, list) else answer
