"""Parameter groups: which parameters decay, and the learning rate of each layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from fastserve_torch_ddp.peft_methods.module_selection import inner_name, is_head, layer_number

EMBEDDING = re.compile(r"embed|^wte\.|^wpe\.")


def build_parameter_groups(model: nn.Module, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Divide the trainable parameters into the optimizer's groups.

    Weight decay applies to matrices, not to biases and norms. With ``layer_decay`` below 1 a layer's learning rate
    is the head's times ``layer_decay`` for each layer above it, and that of the embeddings is the lowest (Howard &
    Ruder 2018; the numbering is that of BEiT, Bao et al. 2021).

    Args:
        model: The model, with ``requires_grad`` set on the parameters to train.
        options: The trainer's options.

    Returns:
        Groups with ``params``, ``weight_decay``, ``lr_scale`` and ``names``.
    """
    depths = compute_depths(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = float(options["weight_decay"]) if parameter.ndim >= 2 else 0.0
        scale = float(options["layer_decay"]) ** depths[name]
        empty = {"params": [], "weight_decay": decay, "lr_scale": scale, "names": []}
        group = groups.setdefault((decay, scale), empty)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def compute_depths(model: nn.Module) -> dict[str, int]:
    """Return the depth of each parameter below the head: 0 the head, 1 the last layer, the highest the embeddings."""
    inner_names = {name: inner_name(model, name) for name, _ in model.named_parameters()}
    numbers = {name: _number(inner) for name, inner in inner_names.items()}
    layers = 1 + max((number for number in numbers.values() if number is not None), default=-1)
    return {name: 0 if number is None else layers - number for name, number in numbers.items()}


def _number(inner: str | None) -> int | None:
    """Return -1 for the embeddings, a layer's number, or ``None`` for the head and the norm before it."""
    if inner is None or is_head(inner):
        return None
    number = layer_number(inner)
    return -1 if number is None and EMBEDDING.search(inner) else number
