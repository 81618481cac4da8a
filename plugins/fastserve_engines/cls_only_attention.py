"""Compute only the [CLS] token in the last layer of classifiers that read nothing else."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

FAMILIES = frozenset({"bert", "camembert", "electra", "roberta", "xlm-roberta"})
"""By ``model_type``: families whose classifiers read the first token and whose layers have BERT's modules."""


class ClsOnlyLayer(nn.Module):
    """Last layer for the first token: keys and values of all tokens, everything else of one."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        """Compute the layer's output for the first token.

        Args:
            hidden_states: Tensor of shape (batch, length, width).
            attention_mask: Additive mask of shape (batch, 1, queries, length).

        Returns:
            Tensor of shape (batch, 1, width).
        """
        attention, first = self.layer.attention.self, hidden_states[:, :1]
        query, key, value = (
            project(source).unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)
            for project, source in (
                (attention.query, first),
                (attention.key, hidden_states),
                (attention.value, hidden_states),
            )
        )
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        context = functional.scaled_dot_product_attention(query, key, value, mask, scale=attention.scaling)
        attended = self.layer.attention.output(context.transpose(1, 2).flatten(2), first)
        output: Tensor = self.layer.feed_forward_chunk(attended)
        return output


def compute_cls_only(model: Any) -> None:
    """Replace a classifier's last layer by one that computes the first token only; the logits do not change.

    This saves a seventh of the arithmetic of six layers, as in MiniLM. Other models are left unchanged.
    """
    config = model.config
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    if classifies and config.model_type in FAMILIES and not getattr(config, "is_decoder", False):
        layers = model.base_model.encoder.layer
        layers[-1] = ClsOnlyLayer(layers[-1])
