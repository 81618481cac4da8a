"""The choice of the method and the threshold that tell texts out of scope, for each trained and compressed model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastserve_core.tasks import Arrays
from fastserve_text.joint_intent_slots.labels import LabelColumns
from fastserve_text.joint_intent_slots.out_of_scope import (
    AUTO,
    MAHALANOBIS,
    METHODS,
    NONE,
    TRAINED,
    Evidence,
    choose_method,
    choose_threshold,
    compute_scores,
    find_centers,
    join_evidence,
)


class LabelledEvidence(NamedTuple):
    """The outputs of rows, and their intents."""

    evidence: Evidence
    intents: Sequence[str | None]


def list_methods(chosen: str, columns: LabelColumns) -> list[str]:
    """Return the methods to compare for the option ``out_of_scope``."""
    if chosen != AUTO:
        return [] if chosen == NONE else [chosen]
    return [method for method in METHODS if method != TRAINED or columns.outside is not None]


def make_centers(batches: Iterator[LabelledEvidence], columns: LabelColumns) -> Arrays:
    """Return the centers of the intents among training rows."""
    numbers = {name: number for number, name in enumerate(columns.names)}
    return find_centers(
        (
            (batch.evidence.vectors, [numbers.get(intent or "", -1) for intent in batch.intents])
            for batch in batches
            if batch.evidence.vectors is not None
        ),
        len(numbers),
    )


def choose(
    methods: Sequence[str],
    batches: Iterator[LabelledEvidence],
    columns: LabelColumns,
    outside: str,
    share: float,
    centers: Arrays,
) -> Arrays:
    """Return the method that does best on validation rows, with its threshold.

    Args:
        methods: The methods to compare.
        batches: The outputs of validation rows, with their intents.
        columns: The columns of the logits.
        outside: The intent of rows out of scope.
        share: The share of the rows in scope that must stay in scope.
        centers: The centers of the intents; empty if no method reads them.
    """
    import numpy as np

    parts = list(batches)
    evidence = join_evidence([part.evidence for part in parts])
    is_in_scope = np.array([intent != outside for part in parts for intent in part.intents])
    scores = {method: compute_scores(method, evidence, columns, centers) for method in methods}
    method = choose_method(scores, is_in_scope)
    threshold, slope = choose_threshold(scores[method], is_in_scope, share)
    chosen = {"method": np.array(method), "threshold": np.array(threshold), "slope": np.array(slope)}
    return chosen | (centers if method == MAHALANOBIS else {})
