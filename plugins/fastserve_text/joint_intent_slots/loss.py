"""The loss of intents and slots: each text counts alike, however many words it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_core.tasks import IGNORE_INDEX, BatchLoss, LossOptions

if TYPE_CHECKING:
    from torch import Tensor


def joint_loss(logits: Tensor, labels: Tensor, intents: int, slot_weight: float, options: LossOptions) -> BatchLoss:
    """Return the cross-entropy of the intent of each row plus the mean of that of its words.

    Args:
        logits: Shape (rows, tokens, labels); the first ``intents`` columns are those of intents.
        labels: Shape (rows, tokens): columns, or negative numbers for tokens that count nothing.
        intents: The number of intents.
        slot_weight: The weight of the words beside the intent.
        options: Smoothing and one weight a label.
    """
    import torch
    from torch.nn import functional

    weights = None
    if options.class_weights is not None:
        weights = torch.tensor(options.class_weights, device=logits.device)
    losses = functional.cross_entropy(
        logits.float().flatten(0, -2),
        labels.flatten().masked_fill(labels.flatten() < 0, IGNORE_INDEX),
        weight=weights,
        ignore_index=IGNORE_INDEX,
        reduction="none",
        label_smoothing=options.label_smoothing,
    ).view_as(labels)
    is_word = labels >= intents
    words = (losses * is_word).sum(dim=-1) / is_word.sum(dim=-1).clamp_min(1)
    of_intents = (losses * ((labels >= 0) & ~is_word)).sum()
    counted = (labels != IGNORE_INDEX).any(dim=-1).sum()
    return BatchLoss(of_intents + slot_weight * words.sum(), counted)
