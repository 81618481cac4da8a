"""Take layers out of the decoder of an encoder with a decoder ("shrink and fine-tune", Shleifer and Rush 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fastserve_compression.structural_pruning import drop_layers
from fastserve_core.errors import ModelError

COMPOSED = "encoder-decoder"
"""The ``model_type`` of two models, of which the second is a decoder of a family of its own."""
STACKS = {
    **dict.fromkeys(("mt5", "t5", "umt5"), ("decoder.block", "num_decoder_layers")),
    **dict.fromkeys(
        ("bart", "blenderbot", "blenderbot-small", "m2m_100", "marian", "mbart", "pegasus"),
        ("model.decoder.layers", "decoder_layers"),
    ),
}
"""By ``model_type``: the path of the decoder's layers, and the option of the config that holds their number."""


def select_decoder_layers(count: int, selected: int) -> list[int]:
    """Return the indices of evenly spaced layers; the first is among them, because T5's holds all positions."""
    return [round(index * (count - 1) / max(1, selected - 1)) for index in range(selected)]


def count_decoder_layers(model: Any) -> int:
    """Return the number of layers of the decoder.

    Raises:
        ModelError: The family is unknown.
    """
    if model.config.model_type == COMPOSED:
        return int(model.config.decoder.num_hidden_layers)
    return len(_get_stack(model))


def keep_decoder_layers(model: Any, kept: Sequence[int]) -> None:
    """Take all other layers out of the decoder and its config.

    Args:
        model: Encoder with a decoder, changed in place.
        kept: Indices of the layers that remain.

    Raises:
        ModelError: The family is unknown.
    """
    if model.config.model_type == COMPOSED:
        drop_layers(model.decoder, sorted(set(range(count_decoder_layers(model))) - set(kept)))
        return
    stack, (path, name) = _get_stack(model), STACKS[model.config.model_type]
    layers = nn.ModuleList(stack[index] for index in kept)
    for index, layer in enumerate(layers):
        indexed: list[Any] = [module for module in layer.modules() if hasattr(module, "layer_idx")]
        for module in indexed:
            module.layer_idx = index  # the cache is indexed by it
    model.set_submodule(path, layers)
    setattr(model.config, name, len(layers))


def _get_stack(model: Any) -> nn.ModuleList:
    family = model.config.model_type
    if family not in STACKS:
        known = ", ".join(sorted((COMPOSED, *STACKS)))
        raise ModelError(f"compress.distill.layers does not support {family} models; of those with a decoder: {known}")
    stack: nn.ModuleList = model.get_submodule(STACKS[family][0])
    return stack
