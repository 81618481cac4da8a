"""Cross-entropy with class weights and label smoothing, summed so that the parts of a batch add up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_core.tasks import IGNORE_INDEX, UNLABELLED, BatchLoss, LossOptions

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, options: LossOptions) -> BatchLoss:
    """Return the cross-entropy over all positions with a label.

    Smoothing is that of Szegedy et al. 2016; with class weights it is weighted as ``torch`` does it. Positions that
    are ``UNLABELLED`` add nothing to the sum and 1 to the denominator, because a teacher is compared on them.

    Args:
        logits: Shape (…, classes).
        labels: Shape (…): class numbers, ``IGNORE_INDEX`` or ``UNLABELLED``.
        options: Smoothing and one weight a class.
    """
    import torch
    from torch.nn import functional

    weights = None
    if options.class_weights is not None:
        weights = torch.tensor(options.class_weights, device=logits.device)
    total = functional.cross_entropy(
        logits.float().flatten(0, -2),
        labels.flatten().masked_fill(labels.flatten() == UNLABELLED, IGNORE_INDEX),
        weight=weights,
        ignore_index=IGNORE_INDEX,
        reduction="sum",
        label_smoothing=options.label_smoothing,
    )
    labelled = labels[labels >= 0]
    weight = weights[labelled].sum() if weights is not None else labelled.numel()
    return BatchLoss(total, weight + (labels == UNLABELLED).sum())


def next_tokens(labels: Tensor) -> Tensor:
    """Return the labels one position to the left, so that each stands where its token is predicted."""
    from torch.nn import functional

    # padding the labels costs less than cutting the logits, which would be copied
    return functional.pad(labels, (0, 1), value=IGNORE_INDEX)[..., 1:]
