"""Bottleneck adapters: a small network with a residual after each attention and feed-forward block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastserve_core.models import components_of, register_component

OUTPUTS = ("output.dense", "out_lin", "lin2", "c_proj", "o_proj", "down_proj", "Wo")
"""How the projection that ends a block is called in BERT, DistilBERT, GPT-2, Llama and their kin."""
COMPONENT_NAME = "bottleneck"
"""What the model's config and the weights' names call an adapter."""


class Bottleneck(nn.Module):
    """x + scale * up(gelu(down(x))) (Houlsby et al. 2019); it changes nothing until it has learnt something."""

    def __init__(self, width: int, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        change: Tensor = self.up(nn.functional.gelu(self.down(self.dropout(hidden))))
        return hidden + self.scale * change


class AdaptedLinear(nn.Module):
    """A linear layer and the adapter after it.

    It has the linear layer's own parameters under their own names, so that a saved model's weights load with and
    without adapters. It is no ``nn.Linear``: what swaps those for others would lose the adapter.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.weight: nn.Parameter = base.weight  # type: ignore[assignment]
        self.bias: nn.Parameter | None = base.bias  # type: ignore[assignment]
        self.transposed = isinstance(base, Conv1D)
        width = self.weight.shape[1 if self.transposed else 0]
        self.bottleneck = Bottleneck(width, rank, alpha, dropout).to(self.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        weight = self.weight.T if self.transposed else self.weight
        adapted: Tensor = self.bottleneck(nn.functional.linear(hidden, weight, self.bias))
        return adapted


def insert(model: nn.Module, names: Sequence[str], rank: int, alpha: float, dropout: float) -> None:
    """Put an adapter after each named linear layer; the model's config tells of it when it is saved."""
    for name in names:
        model.set_submodule(name, AdaptedLinear(model.get_submodule(name), rank, alpha, dropout))
    register_component(model.config, {"kind": COMPONENT_NAME, "alpha": alpha})


def adapted(model: nn.Module) -> list[AdaptedLinear]:
    return [module for module in model.modules() if isinstance(module, AdaptedLinear)]


def shape(model: nn.Module) -> tuple[int, float]:
    """The rank and the alpha of a model's adapters."""
    (about,) = (one for one in components_of(model.config) if one["kind"] == COMPONENT_NAME)
    return adapted(model)[0].bottleneck.down.out_features, float(about["alpha"])


def restore(model: nn.Module, folder: Path, about: Mapping[str, Any]) -> nn.Module:
    """Give a model that was loaded from the folder the adapters that the folder's weights hold.

    Layers that were cut out of the model since then are passed over with their adapters.
    """
    tensors = _adapter_tensors(folder)
    modules = dict(model.named_modules())
    for name in sorted({key.rpartition(f".{COMPONENT_NAME}.")[0] for key in tensors}):
        if name not in modules:
            continue
        rank = tensors[f"{name}.{COMPONENT_NAME}.down.weight"].shape[0]
        layer = AdaptedLinear(modules[name], rank, float(about["alpha"]))
        prefix = f"{name}.{COMPONENT_NAME}."
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        layer.bottleneck.load_state_dict(own)
        model.set_submodule(name, layer.train(model.training))
    return model


def _adapter_tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if f".{COMPONENT_NAME}." in name]  # noqa: SIM118 - not a mapping
            found |= {name: file.get_tensor(name).to(torch.get_default_dtype()) for name in names}
    return found
