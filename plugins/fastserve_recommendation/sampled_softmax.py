"""Cross-entropy over all items or over a sample of them, with an explicit backward pass in 16 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 1024
"""Positions whose scores are in memory at once."""


class SampledSoftmax(torch.autograd.Function):
    """The sum over positions of the cross-entropy of their item among candidates.

    The scores of a chunk are computed once, and turned into their gradients in place: autograd would keep several
    arrays of positions times items. The candidates but the target have ``-log`` of their chance to be sampled added to
    their scores, so that the sum of their exponentials is an unbiased estimate of that over all items (Jean et al.
    2015).
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, items: Tensor, targets: Tensor, log_chances: Tensor | None) -> Tensor:
        """Return the sum of the losses.

        Args:
            ctx: The context of autograd.
            queries: Of shape (positions, width).
            items: The vectors of the candidates, of shape (candidates, width).
            targets: The column of each position's item, of shape (positions,).
            log_chances: The logarithm of the candidates' chance to be sampled; ``None`` if they are all items.
        """
        total = torch.zeros((), dtype=torch.float32)
        query_gradient = torch.empty_like(queries)
        item_gradient = torch.zeros(items.shape, dtype=torch.float32)
        for start in range(0, len(queries), CHUNK):
            query, target = queries[start : start + CHUNK], targets[start : start + CHUNK, None]
            scores = query @ items.T
            own = scores.gather(1, target)
            if log_chances is not None:
                scores -= log_chances.to(scores.dtype)
                scores.scatter_(1, target, own)
            highest = scores.amax(1, keepdim=True)
            scores.sub_(highest).exp_()
            sums = scores.sum(1, keepdim=True, dtype=torch.float32)
            total += (sums.log() + highest.float() - own.float()).sum()
            scaled = (query.float() / sums).to(query.dtype)
            gradient = (scores @ items).float() / sums - items[target[:, 0]].float()
            query_gradient[start : start + CHUNK] = gradient.to(query.dtype)
            item_gradient += scores.T @ scaled
            item_gradient.index_add_(0, target[:, 0], -query.float())
        ctx.save_for_backward(query_gradient, item_gradient.to(items.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the queries and of the candidates' vectors."""
        query_gradient, item_gradient = ctx.saved_tensors
        factor = gradients[0].to(query_gradient.dtype)
        return query_gradient * factor, item_gradient * factor, None, None


def sample_candidates(targets: Tensor, shares: Tensor, negatives: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sample the items that the items of a batch are compared with: those of the batch, and uniform ones.

    Args:
        targets: The items of the batch, from 0, of shape (positions,).
        shares: The share of each item in the training data, of shape (items,).
        negatives: The number of uniform draws.

    Returns:
        The candidates in order, the column of each target, and the logarithm of the candidates' chances.
    """
    drawn = torch.randint(len(shares), (negatives,))
    candidates, columns = torch.unique(torch.cat([targets, drawn]), return_inverse=True)
    expected = negatives / len(shares) + shares[candidates] * len(targets)
    return candidates, columns[: len(targets)], torch.log(-torch.expm1(-expected))
