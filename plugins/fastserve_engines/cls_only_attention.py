"""Compute only the [CLS] token in the last layer of classifiers that read nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastserve_core.tasks import DEFAULT_OUTPUTS
from fastserve_engines.model_outputs import compute_outputs

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


def compute_cls_only(model: Any, outputs: Sequence[str] = DEFAULT_OUTPUTS) -> None:
    """Replace a classifier's last layer by one that computes the first token only; its outputs do not change.

    This saves a seventh of the arithmetic of six layers, as in MiniLM. Other models are left unchanged.

    Args:
        model: Model of transformers, changed in place.
        outputs: Patterns of the names of the outputs that are read.
    """
    config = model.config
    is_encoder = config.model_type in FAMILIES and not getattr(config, "is_decoder", False)
    encoder = getattr(getattr(model, "base_model", None), "encoder", None)
    if not is_encoder or encoder is None:  # a module around or instead of transformers' own has neither
        return
    layers = encoder.layer
    if len(layers) and _reads_first_token_only(model, layers[-1], outputs):
        layers[-1] = ClsOnlyLayer(layers[-1])


@torch.no_grad()
def _reads_first_token_only(model: Any, last: nn.Module, outputs: Sequence[str]) -> bool:
    """Return whether the outputs stay the same, bit by bit, when the last layer's other outputs are changed."""
    ids = torch.ones(1, 4, dtype=torch.long, device=model.device)
    before = _compute(model, ids, outputs)

    def change(layer: nn.Module, given: Any, output: Any) -> Any:
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        changed = torch.cat([hidden[:, :1], -2 * hidden[:, 1:] + 1], dim=1)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    hook = last.register_forward_hook(change)
    try:
        after = _compute(model, ids, outputs)
    finally:
        hook.remove()
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def _compute(model: Any, ids: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
    return compute_outputs(model, outputs, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
