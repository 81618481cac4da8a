"""Scores of entities and triples over a split, and the threshold with the best one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastserve_text.relation_extraction.encoding import EntityWords

MIN_SCORE = 0.05
"""Relations that are less likely are never part of an answer, whatever the threshold."""
DEFAULT_THRESHOLD = 0.5


class RowStatistics(NamedTuple):
    """Tags and entities of a row, guessed and labelled, and its guessed relations with whether they are right."""

    guessed_tags: Sequence[str]
    tags: Sequence[str]
    guessed_entities: frozenset[EntityWords]
    entities: frozenset[EntityWords]
    candidates: Sequence[tuple[float, bool]]
    num_relations: int


def score_rows(rows: Sequence[RowStatistics], threshold: float) -> dict[str, float]:
    """Return the metrics of a split.

    An entity is right if its words and its type are, a triple if its relation and both of its entities are. A metric is
    left out if there is nothing to find and nothing was found.

    Args:
        rows: The statistics of all rows.
        threshold: The least probability of a relation.
    """
    pairs = [pair for row in rows for pair in zip(row.guessed_tags, row.tags, strict=True)]
    found = [is_right for row in rows for score, is_right in row.candidates if score >= threshold]
    right = sum(len(row.guessed_entities & row.entities) for row in rows)
    guessed = sum(len(row.guessed_entities) for row in rows)
    true = sum(len(row.entities) for row in rows)
    scores = {
        "triple_f1": _f1(sum(found), len(found), sum(row.num_relations for row in rows)),
        "entity_f1": _f1(right, guessed, true),
        "accuracy": sum(guess == tag for guess, tag in pairs) / max(1, len(pairs)),
    }
    return {name: score for name, score in scores.items() if score is not None}


def _f1(right: int, guessed: int, true: int) -> float | None:
    """Return the F1 score of counts; ``None`` if there is nothing to find and nothing was found."""
    return 2 * right / (guessed + true) if guessed + true else None


def best_threshold(rows: Sequence[RowStatistics]) -> float:
    """Return the probability from which on relations are answered with the best F1."""
    candidates = sorted((one for row in rows for one in row.candidates), reverse=True)
    true = sum(row.num_relations for row in rows)
    best, threshold, right = 0.0, DEFAULT_THRESHOLD, 0
    for number, (score, is_right) in enumerate(candidates, 1):
        right += is_right
        is_last = number == len(candidates) or candidates[number][0] < score
        value = 2 * right / (number + true)
        if is_last and value > best:
            following = candidates[number][0] if number < len(candidates) else MIN_SCORE
            best, threshold = value, (score + following) / 2
    return threshold
