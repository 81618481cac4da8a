"""One pass of a causal language model of transformers, with the KV cache as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastserve_core.errors import ExportError
from fastserve_engines.exportable import find_window, is_decoder


class DecodeStep(nn.Module):
    """Causal language model whose keys and values are inputs and outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Run one pass.

        The attention mask of the model is built here, so that no family's own mask construction is traced.

        Args:
            input_ids: New tokens, of shape (batch, length).
            attention_mask: Mask of past and new tokens, of shape (batch, past + length).
            position_ids: Positions of the new tokens, of shape (batch, length).
            past: Keys and values of each layer in turn, of shape (batch, heads, past, width).

        Returns:
            Logits (batch, length, vocabulary), then keys and values of all tokens in the order of ``past``.
        """
        past_length, cache, dtype = past[0].shape[2], make_cache(past), past[0].dtype
        queries = torch.arange(input_ids.shape[1]) + past_length
        is_visible = torch.arange(attention_mask.shape[1])[None, :] <= queries[:, None]
        mask = is_visible[None, None] & (attention_mask[:, None, None, :] != 0)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        layers = outputs.past_key_values.layers
        return (outputs.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))


def make_cache(past: list[Tensor]) -> Any:
    """Return a cache that holds these keys and values; DynamicCache.update would concatenate an empty tensor first."""
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
    """Check that a model is a causal language model with a plain KV cache.

    Raises:
        ExportError: It is not.
    """
    config = model.config.get_text_config()
    name = type(model).__name__
    if not model.can_generate():
        raise ExportError(f"{name} is not a causal language model")
    if config.is_encoder_decoder or getattr(config, "add_cross_attention", False):
        raise ExportError(f"{name} attends to an encoder")
    if not is_decoder(model):
        raise ExportError(f"{name} attends to the tokens behind a position too (is_decoder=false in its config.json)")
    if (window := find_window(model)) is not None:
        raise ExportError(f"{name} attends to a window of {window} tokens")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ExportError(f"{name} has layers other than full attention: {', '.join(sorted(kinds))}")


def get_kv_cache_shape(model: Any) -> tuple[int, int, int]:
    """Return the number of layers, the number of key-value heads, and the width of a head."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, heads, width
