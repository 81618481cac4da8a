"""The two halves of an encoder with a decoder, of transformers, for tracing: keys and values as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastserve_engines.decode_step import make_cache


class SourceEncoder(nn.Module):
    """The encoder, and the decoder's keys and values of the source, which stay the same for all tokens of an answer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Return keys and values of each layer in turn, of shape (batch, heads, source length, width).

        Args:
            input_ids: Source tokens, of shape (batch, length).
            attention_mask: Mask of the source, of the same shape.
        """
        from transformers import EncoderDecoderCache

        cache = EncoderDecoderCache(_make_empty_cache(), _make_empty_cache())
        self.model(
            input_ids=input_ids,
            attention_mask=extend_mask(attention_mask),
            decoder_input_ids=torch.zeros_like(input_ids[:, :1]),
            past_key_values=cache,
            use_cache=True,
        )
        layers = cache.cross_attention_cache.layers
        return tuple(tensor for layer in layers for tensor in (layer.keys, layer.values))


class AnswerStep(nn.Module):
    """The decoder with its keys and values, and those of the source, as inputs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, states: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the logits (batch, length, vocabulary), then keys and values of all tokens of the answers.

        Args:
            input_ids: New tokens of the answers, of shape (batch, length).
            attention_mask: Mask of the source, of shape (batch, source length).
            states: Keys and values of the answers so far, of each layer in turn, of shape (batch, heads, past, width);
                then the outputs of ``SourceEncoder``.
        """
        from transformers import EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        past, source = states[: len(states) // 2], states[len(states) // 2 :]
        cache = EncoderDecoderCache(make_cache(past), make_cache(source))
        cache.is_updated = dict.fromkeys(range(len(source) // 2), True)
        past_length, dtype = past[0].shape[2], past[0].dtype
        queries = torch.arange(input_ids.shape[1]) + past_length
        visible = torch.arange(past_length + input_ids.shape[1])[None, :] <= queries[:, None]
        causal = torch.where(visible, 0.0, torch.finfo(dtype).min).to(dtype)
        rows, length = attention_mask.shape
        outputs = self.model(
            attention_mask=extend_mask(attention_mask),
            decoder_input_ids=input_ids,
            decoder_attention_mask=causal[None, None].expand(rows, 1, -1, -1),
            # the decoder reads no state of the encoder but its presence, because its keys and values are known
            encoder_outputs=BaseModelOutput(last_hidden_state=torch.zeros(rows, length, 1)),
            past_key_values=cache,
            use_cache=True,
        )
        layers = outputs.past_key_values.self_attention_cache.layers
        return (outputs.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))


def _make_empty_cache() -> Any:
    """Return a cache for one pass; that of ``DynamicLayer`` would concatenate an empty tensor of another rank first."""
    from transformers.cache_utils import Cache, DynamicLayer

    class FirstLayer(DynamicLayer):  # type: ignore[misc]
        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            self.keys, self.values = key_states, value_states
            return key_states, value_states

    return Cache(layer_class_to_replicate=FirstLayer)


def extend_mask(mask: Tensor) -> Tensor:
    """Return a mask of tokens as numbers that are added to the scores, of shape (batch, 1, 1, length)."""
    lowest = torch.finfo(torch.float32).min
    return torch.where(mask[:, None, None, :] != 0, 0.0, lowest)
