"""The evaluation of a model that is trained: the loss of the targets, and answers to a sample of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastserve_core.tasks import IGNORE_INDEX
from fastserve_text.seq2seq.options import Options

PASS_ROWS = 16
"""Rows of one pass: the logits of a row are a number for each token of the target and of the vocabulary."""
NO_ANSWER = -1


def compute_losses(model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return each row's summed negative log-likelihood of its target, and the number of the target's tokens."""
    losses = []
    for start in range(0, len(inputs["labels"]), PASS_ROWS):
        part = {name: tensor[start : start + PASS_ROWS] for name, tensor in inputs.items()}
        labels = part.pop("labels")
        logits = model(**part).logits.float()
        losses.append(functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(dim=1))
    return torch.cat(losses), (inputs["labels"] != IGNORE_INDEX).sum(dim=1)


def generate_ids(model: Any, inputs: Mapping[str, Tensor], rows: Sequence[int], options: Options) -> Tensor:
    """Return the answers to some rows of a batch, greedily; the other rows have no answer.

    Args:
        model: The model in evaluation mode.
        inputs: The tensors of the batch.
        rows: The numbers of the rows.
        options: The task's options.
    """
    found = model.generate(
        input_ids=inputs["input_ids"][list(rows)],
        attention_mask=inputs["attention_mask"][list(rows)],
        max_new_tokens=options.max_new_tokens,
        min_new_tokens=options.min_new_tokens or None,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        num_beams=1,
        do_sample=False,
    )[:, 1:]
    ids = torch.full((len(inputs["input_ids"]), found.shape[1]), NO_ANSWER, dtype=found.dtype)
    ids[list(rows)] = found.cpu()
    return ids
