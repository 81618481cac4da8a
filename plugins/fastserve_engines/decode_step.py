"""One pass of a causal language model of transformers, with the keys and values of the passes before as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastserve_core.errors import ExportError
from fastserve_engines.lowering import CAUSAL


class DecodeStep(nn.Module):
    """Tokens, and the keys and values of those before them, in; logits and all keys and values out.

    ``attention_mask`` (batch, past + length) counts the tokens before; the mask (batch, 1, length, past + length)
    is made here, so that no family's own way of making it is traced.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        before, cache, kind = past[0].shape[2], _cache(past), past[0].dtype
        queries = torch.arange(input_ids.shape[1]) + before
        seen = torch.arange(attention_mask.shape[1])[None, :] <= queries[:, None]
        mask = seen[None, None] & (attention_mask[:, None, None, :] != 0)
        found = self.model(
            input_ids=input_ids,
            attention_mask=torch.where(mask, 0.0, torch.finfo(kind).min).to(kind),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        kept = found.past_key_values.layers
        return (found.logits, *(one for layer in kept for one in (layer.keys, layer.values)))


def _cache(past: list[Tensor]) -> Any:
    """Layers that hold keys and values already: DynamicCache itself would first join them with an empty tensor."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache()
    for keys, values in zip(past[::2], past[1::2], strict=True):
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def check_family(model: Any) -> None:
    """Raise ``ExportError`` for a model that is not a causal language model with plain keys and values."""
    config = model.config.get_text_config()
    name = type(model).__name__
    if not name.endswith(CAUSAL):
        raise ExportError(f"{name} is not a causal language model")
    if config.is_encoder_decoder or getattr(config, "add_cross_attention", False):
        raise ExportError(f"{name} attends to an encoder")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ExportError(f"{name} has layers of other kinds than full attention: {', '.join(sorted(kinds))}")


def kv_cache_shape(model: Any) -> tuple[int, int, int]:
    """Layers, heads of keys and values, and the width of each."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, heads, width
