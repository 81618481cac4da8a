"""Scores of relations: those of SemEval-2010 task 8 and of TACRED, which leave out the label for no relation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

DIRECTED = re.compile(r"(.+)\((e1,e2|e2,e1)\)")
"""A label of SemEval: the relation, and which of the entities is its subject."""


class Relation(NamedTuple):
    """A relation, and whether the second entity is its subject."""

    name: str
    is_reversed: bool


def parse_relation(label: str) -> Relation:
    """Return the relation of a label; one without a direction goes from the first entity to the second."""
    match = DIRECTED.fullmatch(label)
    return Relation(match[1], match[2] == "e2,e1") if match else Relation(label, False)


def macro_f1(guesses: Sequence[str], truth: Sequence[str], no_relation: str | None) -> float | None:
    """Return the official score of SemEval-2010 task 8 (Hendrickx et al. 2010), between 0 and 1.

    It is the mean of the F1 of all relations but ``no_relation``. A label with the wrong direction is wrong, and both
    directions of a relation are counted together.

    Returns:
        The score; ``None`` if there is nothing but ``no_relation``.
    """
    guessed, true = ([parse_relation(label).name for label in labels] for labels in (guesses, truth))
    right = Counter(
        name for name, guess, label in zip(true, guesses, truth, strict=True) if guess == label != no_relation
    )
    counts = Counter(guessed) + Counter(true)
    names = sorted(counts.keys() - {no_relation})
    return fmean(2 * right[name] / counts[name] for name in names) if names else None


def micro_f1(guesses: Sequence[str], truth: Sequence[str], no_relation: str | None) -> float | None:
    """Return the F1 of all relations but ``no_relation`` together, as TACRED counts it (Zhang et al. 2017).

    Returns:
        The score; ``None`` if there is nothing but ``no_relation``.
    """
    count = sum(label != no_relation for labels in (guesses, truth) for label in labels)
    right = sum(guess == label != no_relation for guess, label in zip(guesses, truth, strict=True))
    return 2 * right / count if count else None
