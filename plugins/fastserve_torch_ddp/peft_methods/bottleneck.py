"""Bottleneck adapters: a small network with a residual after each attention and feed-forward block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastserve_core.models import list_components, register_component

OUTPUT_PROJECTIONS = ("output.dense", "out_lin", "lin2", "c_proj", "o_proj", "down_proj", "Wo")
"""Names of the projection that ends a block in BERT, DistilBERT, GPT-2, Llama and related models."""
COMPONENT_NAME = "bottleneck"
"""The name of an adapter in the model's config and in the names of its weights."""


class Bottleneck(nn.Module):
    """x + scale * up(gelu(down(x))) (Houlsby et al. 2019), initialized as the identity.

    Args:
        width: The width of the input and output.
        rank: The width of the bottleneck.
        alpha: The scale is ``alpha / rank``.
        dropout: The dropout probability of the input.
    """

    def __init__(self, width: int, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the adapted hidden states, of the input's shape (…, width)."""
        change: Tensor = self.up(nn.functional.gelu(self.down(self.dropout(hidden))))
        return hidden + self.scale * change


class AdaptedLinear(nn.Module):
    """A linear layer followed by an adapter.

    It has the linear layer's parameters under their original names, so that a saved model's weights load with and
    without adapters. It is not an ``nn.Linear``, because code that replaces linear layers would lose the adapter.

    Args:
        base: The linear layer, or transformers' ``Conv1D``.
        rank: The width of the bottleneck.
        alpha: The scale of the adapter is ``alpha / rank``.
        dropout: The dropout probability of the adapter's input.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.weight: nn.Parameter = base.weight  # type: ignore[assignment]
        self.bias: nn.Parameter | None = base.bias  # type: ignore[assignment]
        self.is_transposed = isinstance(base, Conv1D)
        width = self.weight.shape[1 if self.is_transposed else 0]
        self.bottleneck = Bottleneck(width, rank, alpha, dropout).to(self.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the adapted output of the linear layer, of shape (…, width)."""
        weight = self.weight.T if self.is_transposed else self.weight
        output: Tensor = self.bottleneck(nn.functional.linear(hidden, weight, self.bias))
        return output


def insert_adapters(model: nn.Module, names: Sequence[str], rank: int, alpha: float, dropout: float) -> None:
    """Insert an adapter after each named linear layer, and register it in the model's config.

    Args:
        model: The model, changed in place.
        names: The qualified names of the layers.
        rank: The width of the bottleneck.
        alpha: The scale of the adapter is ``alpha / rank``.
        dropout: The dropout probability of the adapter's input.
    """
    for name in names:
        model.set_submodule(name, AdaptedLinear(model.get_submodule(name), rank, alpha, dropout))
    register_component(model.config, {"kind": COMPONENT_NAME, "alpha": alpha})


def find_adapters(model: nn.Module) -> list[AdaptedLinear]:
    """Return the model's layers with adapters."""
    return [module for module in model.modules() if isinstance(module, AdaptedLinear)]


def read_shape(model: nn.Module) -> tuple[int, float]:
    """Return the rank and the alpha of a model's adapters."""
    (component,) = (component for component in list_components(model.config) if component["kind"] == COMPONENT_NAME)
    return find_adapters(model)[0].bottleneck.down.out_features, float(component["alpha"])


def restore(model: nn.Module, folder: Path, about: Mapping[str, Any]) -> nn.Module:
    """Add the adapters of a saved model after it was loaded without them.

    Adapters of layers that were pruned since then are ignored.

    Args:
        model: The model, changed in place and returned.
        folder: The folder it was loaded from.
        about: The component's entry in the model's config.
    """
    tensors = _read_adapter_tensors(folder)
    modules = dict(model.named_modules())
    for name in sorted({key.rpartition(f".{COMPONENT_NAME}.")[0] for key in tensors}):
        if name not in modules:
            continue
        rank = tensors[f"{name}.{COMPONENT_NAME}.down.weight"].shape[0]
        layer = AdaptedLinear(modules[name], rank, float(about["alpha"]))
        prefix = f"{name}.{COMPONENT_NAME}."
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        layer.bottleneck.load_state_dict(state)
        model.set_submodule(name, layer.train(model.training))
    return model


def _read_adapter_tensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if f".{COMPONENT_NAME}." in name]  # noqa: SIM118 - not a mapping
            tensors |= {name: file.get_tensor(name).to(torch.get_default_dtype()) for name in names}
    return tensors
