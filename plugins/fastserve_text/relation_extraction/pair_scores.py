"""Scores of relations between pairs of entities, from vectors that the model puts out for their first tokens.

The score of a relation is the product of the subject's vector and of the object's, as in Su et al. 2022. Both are
outputs of one linear layer, so that every engine runs the model as it is. The vectors of a new layer are small. So the
product is multiplied by the root of their length, by which attention divides; else the first epochs only lengthen them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastserve_text.relation_extraction.encoding import NO_PLACE

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Matrix = np.ndarray[Any, Any]


class PairScore(NamedTuple):
    """A relation between two entities, by their numbers, and its probability."""

    head: int
    tail: int
    relation: int
    score: float


def pair_loss(outputs: Tensor, places: Tensor, relations: Tensor, width: int) -> Tensor:
    """Return the binary cross-entropy of all relations of all pairs of entities, summed.

    Args:
        outputs: Shape (rows, tokens, 2 * relations * width): the vectors of subjects, then those of objects.
        places: Shape (rows, entities): first tokens, padded with ``NO_PLACE``.
        relations: Shape (rows, labelled relations, 3): subject, object and relation, padded with ``NO_PLACE``.
        width: The length of a vector.
    """
    import torch
    from torch.nn import functional

    count = outputs.shape[-1] // (2 * width)
    known = places != NO_PLACE
    rows = torch.arange(len(places), device=places.device)
    found = outputs[rows[:, None], places.clamp(min=0)].float()
    heads, tails = found.reshape(*places.shape, 2, count, width).unbind(2)
    scores = torch.einsum("berw,bfrw->befr", heads, tails) * math.sqrt(width)
    target = torch.zeros_like(scores)
    row, link = (relations[..., 0] != NO_PLACE).nonzero(as_tuple=True)
    head, tail, relation = relations[row, link].unbind(-1)
    target[row, head, tail, relation] = 1
    is_pair = (
        known[:, :, None] & known[:, None, :] & ~torch.eye(places.shape[1], dtype=torch.bool, device=places.device)
    )
    return functional.binary_cross_entropy_with_logits(scores[is_pair], target[is_pair], reduction="sum")


def score_pairs(
    outputs: Matrix, places: Sequence[int | None], width: int, reach: int, min_score: float
) -> Iterator[PairScore]:
    """Yield the relations between entities of one text that are likely enough.

    Args:
        outputs: Shape (tokens, 2 * relations * width).
        places: The first token of each entity, in ascending order; ``None`` for one without tokens.
        width: The length of a vector.
        reach: Entities that are as many tokens apart, or more, are not compared: the model has never read such a pair.
        min_score: The least probability.
    """
    import numpy as np

    numbers = [number for number, place in enumerate(places) if place is not None]
    tokens = np.asarray([place for place in places if place is not None], dtype=np.int64)
    count = outputs.shape[-1] // (2 * width)
    vectors = outputs[tokens].astype(np.float64).reshape(len(tokens), 2, count, width)
    for index, token in enumerate(tokens):
        first, last = np.searchsorted(tokens, (token - reach + 1, token + reach))
        logits = np.einsum("rw,erw->er", vectors[index, 0], vectors[first:last, 1]) * math.sqrt(width)
        scores = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
        for other, relation in np.argwhere(scores >= min_score).tolist():
            if first + other != index:
                score = float(scores[other, relation])
                yield PairScore(numbers[index], numbers[int(first) + other], relation, score)
