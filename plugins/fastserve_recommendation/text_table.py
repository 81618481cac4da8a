"""An item table with text vectors: a row is the sum of a learned vector and of the projected vector of a text.

An item without interactions has the second one alone. When a training ends, the sums become the rows of a plain table,
so that a trained model needs neither the texts nor their vectors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastserve_recommendation.vocabulary import FIRST_ITEM, TABLE


class TextItemTable(nn.Module):
    """The table while a model is trained.

    Args:
        learned: The table of learned vectors.
        vectors: The text vectors of the rows, of shape (rows, text width); zeros for a row without a text.
        is_learned: Which rows have a learned vector, of shape (rows,).
        text_only: The share of the looked up rows that are their text vector alone while training, as those of new
            items are later (Volkovs et al. 2017).
    """

    vectors: Tensor
    is_learned: Tensor
    has_text: Tensor

    def __init__(self, learned: nn.Embedding, vectors: Tensor, is_learned: Tensor, text_only: float) -> None:
        super().__init__()
        self.learned, self.text_only = learned, text_only
        self.num_embeddings, self.padding_idx = learned.num_embeddings, learned.padding_idx
        self.projection = nn.Linear(vectors.shape[1], learned.embedding_dim, bias=False)
        # the vectors have length 1, so that the projected ones are as long as the learned ones at first
        nn.init.normal_(self.projection.weight, std=float(learned.weight.detach().std()))
        for name, values in (("vectors", vectors), ("is_learned", is_learned), ("has_text", vectors.any(1))):
            self.register_buffer(name, values, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The rows, of shape (rows, width)."""
        texts: Tensor = self.projection(self.vectors.to(self.projection.weight.dtype))
        rows: Tensor = self.learned.weight * self.is_learned.unsqueeze(1).to(texts.dtype) + texts
        return rows

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of the ids, of shape (*ids, width)."""
        is_learned = self.is_learned[ids]
        if self.training:
            is_hidden = (torch.rand(ids.shape, device=ids.device) < self.text_only) & self.has_text[ids]
            is_learned = is_learned & ~is_hidden
        texts: Tensor = self.projection(self.vectors[ids].to(self.projection.weight.dtype))
        rows: Tensor = self.learned(ids) * is_learned.unsqueeze(-1).to(texts.dtype) + texts
        return rows


def attach_texts(model: Any, vectors: Tensor, is_trained: Tensor, text_only: float) -> None:
    """Give a model's item table text vectors.

    Args:
        model: The model, changed in place.
        vectors: The text vectors of the items, of shape (items, text width).
        is_trained: Which items the training data has, of shape (items,).
        text_only: The share of the looked up items that are known by their texts alone while training.
    """
    special = vectors.new_zeros(FIRST_ITEM, vectors.shape[1])
    is_learned = torch.cat([torch.ones(FIRST_ITEM, dtype=torch.bool), is_trained])
    learned = model.get_submodule(TABLE)
    model.set_submodule(TABLE, TextItemTable(learned, torch.cat([special, vectors]), is_learned, text_only))


def fold_texts(model: Any) -> None:
    """Replace a model's item table with text vectors by a plain one of the same rows."""
    table = model.get_submodule(TABLE)
    if isinstance(table, TextItemTable):
        folded = nn.Embedding(table.num_embeddings, table.learned.embedding_dim, table.padding_idx)
        folded.weight.data = table.weight.detach().float()
        model.set_submodule(TABLE, folded)
