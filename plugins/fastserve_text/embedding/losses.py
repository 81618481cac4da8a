"""The losses of vectors: ranking among the texts of the batch, triplets, and scored pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

SCALE = 20.0
"""The factor of similarities: the inverse of the temperature 0.05 (Henderson et al. 2017)."""
MARGIN = 0.3
"""The distance between a close text and one that is not, in similarity, that triplets are trained to."""


def embedding_loss(
    vectors: Tensor,
    batch: Mapping[str, Tensor],
    losses: tuple[str, str],
    widths: Sequence[int],
    bounds: Sequence[float],
) -> Tensor:
    """Return the loss summed over the rows of a batch, the mean over all lengths of the vectors.

    Args:
        vectors: The vectors of the texts, of shape (texts, width).
        batch: ``anchors``, ``positives``, ``negatives`` and ``scores``, as ``collate`` makes them.
        losses: The loss of rows without a score, and that of rows with one.
        widths: Shorter lengths that the vectors are trained for (Kusupati et al. 2022).
        bounds: The lowest and the highest score of the training rows.
    """
    found = []
    for width in (vectors.shape[1], *widths):
        unit = functional.normalize(vectors[:, :width].float(), dim=-1)
        found.append(_rows_loss(unit, batch, losses, bounds))
    return torch.stack(found).mean()


def _rows_loss(unit: Tensor, batch: Mapping[str, Tensor], losses: tuple[str, str], bounds: Sequence[float]) -> Tensor:
    anchors, positives, scores = batch["anchors"], batch["positives"], batch["scores"]
    is_pair, is_scored = positives >= 0, ~scores.isnan()
    total = unit.sum() * 0  # a batch of rows without labels has a gradient too
    ranked, scored = is_pair & ~is_scored, is_pair & is_scored
    if ranked.any():
        negatives = batch["negatives"]
        if losses[0] == "triplet":
            total = total + triplet_loss(unit, anchors, positives, negatives)
        else:
            total = total + ranking_loss(
                unit, anchors[ranked], positives[ranked], negatives[:, 1], batch["twins"][ranked]
            )
    if scored.any():
        similarities = (unit[anchors[scored]] * unit[positives[scored]]).sum(-1)
        if losses[1] == "cosine":
            lowest, highest = bounds
            wanted = (scores[scored] - lowest) / (highest - lowest)
            total = total + (similarities - wanted).square().sum()
        else:
            total = total + cosent_loss(similarities, scores[scored])
    return total


def ranking_loss(unit: Tensor, anchors: Tensor, positives: Tensor, negatives: Tensor, twins: Tensor) -> Tensor:
    """Return the cross-entropy of finding each row's close text among all those of the batch.

    A text that is close to an anchor by another row of the batch is not a negative for it, nor is an equal text.

    Args:
        unit: Vectors of the length 1, of shape (texts, width).
        anchors: The number of each row's first text.
        positives: The number of the text that is close to it.
        negatives: The numbers of further texts that are not.
        twins: The number of the text that is equal to each anchor, or -1.
    """
    documents = torch.unique(torch.cat([positives, negatives]))
    logits = SCALE * unit[anchors] @ unit[documents].T
    own = torch.searchsorted(documents, positives)
    same = (anchors[:, None] == anchors[None, :]).float()
    is_close = same @ functional.one_hot(own, len(documents)).float() > 0
    is_hidden = (is_close | (documents[None, :] == twins[:, None])).scatter(1, own[:, None], value=False)
    return functional.cross_entropy(logits.masked_fill(is_hidden, -torch.inf), own, reduction="sum")


def triplet_loss(unit: Tensor, anchors: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the summed shortfall of the margin between close texts and those that are not (Schroff et al. 2015).

    Args:
        unit: Vectors of the length 1, of shape (texts, width).
        anchors: The number of each row's first text.
        positives: The number of the text that is close to it.
        negatives: The row and the number of each text that is not, of shape (negatives, 2).
    """
    rows, texts = negatives.T
    close = (unit[anchors[rows]] * unit[positives[rows]]).sum(-1)
    far = (unit[anchors[rows]] * unit[texts]).sum(-1)
    return functional.relu(far - close + MARGIN).sum()


def cosent_loss(similarities: Tensor, scores: Tensor) -> Tensor:
    """Return the loss of all pairs of rows whose similarities are not in the order of the scores (Su 2022).

    It is multiplied by the number of rows, because it is one number for a batch.

    Args:
        similarities: The similarities of the rows, of shape (rows,).
        scores: Their scores, of shape (rows,).
    """
    scaled = SCALE * similarities
    differences = scaled[:, None] - scaled[None, :]
    is_ordered = scores[:, None] < scores[None, :]
    wrong = differences.masked_fill(~is_ordered, -torch.inf).flatten()
    return torch.logsumexp(torch.cat([torch.zeros_like(wrong[:1]), wrong]), 0) * len(scores)
