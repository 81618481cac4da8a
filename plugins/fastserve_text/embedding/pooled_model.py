"""A model whose output is one vector for each text: the last hidden states of its tokens, pooled in the model itself.

An engine's file then has the pooling as well, whatever the engine. In training, a large batch is computed in chunks of
texts of similar length. With gradient checkpointing, each chunk is computed again in the backward pass, so that the
memory is that of one chunk, whatever the size of the batch (the gradient cache of Gao et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from fastserve_core.models import register_component
from fastserve_text.embedding.sentence_settings import SentenceSettings

CHUNK_TEXTS = 32
"""Texts of one chunk of a training batch."""


@dataclass
class EmbeddingOutput(ModelOutput):  # type: ignore[misc] # transformers gives it no type
    """The outputs of a model with pooling.

    Attributes:
        embedding: One vector for each text, of shape (texts, width), in single precision.
        last_hidden_state: Shape (texts, tokens, width).
        hidden_states: The hidden states of each layer, if they were requested.
        attentions: The weights of attention, if they were requested.
    """

    embedding: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Return one vector for each text.

    Args:
        hidden: The hidden states, of shape (texts, tokens, width).
        mask: 1 for tokens and 0 for padding, of shape (texts, tokens).
        pooling: ``mean``, ``cls``, ``max`` or ``last``.
    """
    hidden = hidden.float()
    if pooling == "cls":
        return hidden[:, 0]
    present = mask.unsqueeze(-1)
    if pooling == "max":
        return hidden.masked_fill(present == 0, torch.finfo(torch.float32).min).amax(1)
    if pooling == "last":
        # the number of tokens to the right is 0 for the last one only, on whichever side the padding is
        following = mask.flip(1).cumsum(1).flip(1)
        return (hidden * ((following == 1) & (mask == 1)).unsqueeze(-1)).sum(1)
    weights = present.to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def attach_pooling(model: Any, settings: SentenceSettings) -> nn.Module:
    """Give a model of transformers the output ``embedding``, register it in the config, and return the model.

    Args:
        model: The model, changed in place.
        settings: The settings; those of an earlier call are replaced.
    """
    model.pooling = settings.pooling
    if not hasattr(type(model), "compute_chunks"):
        model.__class__ = _pooled_class(type(model))  # type: ignore[arg-type] # a class can be hashed
    for name, parameter in model.named_parameters():
        if "pooler" in name.split("."):  # of the class token, for the next sentence: it is not part of the vector
            parameter.requires_grad_(False)
    register_component(model.config, settings.to_component())
    result: nn.Module = model
    return result


def restore(model: nn.Module, folder: Path, about: Mapping[str, Any]) -> nn.Module:
    """Add the pooling to a saved model after it was loaded without.

    Args:
        model: The model, changed in place and returned.
        folder: The folder it was loaded from.
        about: The component's entry in the model's config.
    """
    return attach_pooling(model, SentenceSettings.read(folder))


@cache
def _pooled_class(base: type[Any]) -> type[Any]:
    """Return a subclass of a model's class with pooling; it has the same name, which saved configs have."""

    class Pooled(base):  # type: ignore[misc]
        pooling: str
        is_recomputed = False

        @wraps(base.forward)
        def forward(self, *arguments: Any, **inputs: Any) -> EmbeddingOutput:
            if self.training and torch.is_grad_enabled() and not arguments and self._can_split(inputs):
                return EmbeddingOutput(embedding=self.compute_chunks(inputs))
            outputs = super().forward(*arguments, **inputs)
            mask = inputs.get("attention_mask")
            hidden = outputs.last_hidden_state
            if mask is None:
                mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
            states = {name: outputs.get(name) for name in ("hidden_states", "attentions")}
            return EmbeddingOutput(pool(hidden, mask, self.pooling), hidden, **states)

        def _can_split(self, inputs: Mapping[str, Any]) -> bool:
            """Return whether a batch is large, and only its vectors are read, neither hidden states nor by a hook."""
            is_large = len(inputs["input_ids"]) > CHUNK_TEXTS
            has_tensors_only = all(isinstance(value, Tensor) for value in inputs.values())
            return is_large and has_tensors_only and not any(module._forward_hooks for module in self.modules())

        def compute_chunks(self, inputs: Mapping[str, Tensor]) -> Tensor:
            """Return the vectors of the texts of a batch, in its order."""
            order, vectors = [], []
            for rows, chunk in _split(inputs):
                run = partial(self._embed, chunk)
                vectors.append(checkpoint(run, use_reentrant=False) if self.is_recomputed else run())
                order.append(rows)
            places = torch.cat(order)
            return torch.cat(vectors)[torch.argsort(places)]

        def _embed(self, chunk: Mapping[str, Tensor]) -> Tensor:
            outputs = super().forward(**chunk)
            return pool(outputs.last_hidden_state, chunk["attention_mask"], self.pooling)

        def gradient_checkpointing_enable(self, *_: Any, **__: Any) -> None:
            """Compute each chunk again in the backward pass, rather than each layer."""
            self.is_recomputed = True

    Pooled.__name__, Pooled.__qualname__, Pooled.__module__ = base.__name__, base.__qualname__, base.__module__
    return Pooled


def _split(inputs: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield chunks of texts of similar length, without the padding that all of a chunk have, with their numbers."""
    mask = inputs["attention_mask"]
    for rows in torch.split(torch.argsort(mask.sum(1), stable=True), CHUNK_TEXTS):
        used = mask[rows].any(0)
        yield rows, {name: values[rows][:, used] for name, values in inputs.items()}
