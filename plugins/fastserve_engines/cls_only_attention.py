"""A classifier that reads its first token alone needs no other from its last layer, and computes no other."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

FAMILIES = frozenset({"bert", "camembert", "electra", "roberta", "xlm-roberta"})
"""By ``model_type``: their classifiers read the first token, and their layers have BERT's parts."""


class FirstToken(nn.Module):
    """The last layer for the first token: keys and values are of all tokens, everything else is of one."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        """From (batch, length, width) to (batch, 1, width); the mask is (batch, 1, queries, length)."""
        attention, first = self.layer.attention.self, hidden_states[:, :1]
        query, key, value = (
            project(given).unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)
            for project, given in (
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
    """Have a classifier's last layer compute the first token alone; its logits stay what they are.

    Of six layers, as MiniLM has, that is a seventh of the arithmetic. Other models are left as they are.
    """
    config = model.config
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    if classifies and config.model_type in FAMILIES and not getattr(config, "is_decoder", False):
        layers = model.base_model.encoder.layer
        layers[-1] = FirstToken(layers[-1])
