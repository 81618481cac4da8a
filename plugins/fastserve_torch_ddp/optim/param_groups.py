"""Which parameters decay, and how fast each layer learns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from fastserve_torch_ddp.peft_methods.module_selection import inner_name, is_head, layer_number

EMBEDDING = re.compile(r"embed|^wte\.|^wpe\.")


def parameter_groups(model: nn.Module, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trainable parameters as the optimizer's groups.

    Weight decay is for matrices: not for biases and norms. With ``layer_decay`` below 1 a layer's learning rate
    is the head's times ``layer_decay`` for each layer above it, and the embeddings' is the lowest (Howard & Ruder
    2018; the numbering is that of BEiT, Bao et al. 2021). A group has ``params``, ``weight_decay``, ``lr_scale``
    and ``names``; the learning rate itself is the schedule's.
    """
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    depths = depth_of(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, one in named:
        decay = float(options["weight_decay"]) if one.ndim >= 2 else 0.0
        scale = float(options["layer_decay"]) ** depths[name]
        empty = {"params": [], "weight_decay": decay, "lr_scale": scale, "names": []}
        group = groups.setdefault((decay, scale), empty)
        group["params"].append(one)
        group["names"].append(name)
    return list(groups.values())


def depth_of(model: nn.Module) -> dict[str, int]:
    """How far below the head each parameter is: 0 the head, 1 the last layer, and so on to the embeddings."""
    inner = {name: inner_name(model, name) for name, _ in model.named_parameters()}
    numbers = {name: _number(one) for name, one in inner.items()}
    layers = 1 + max((number for number in numbers.values() if number is not None), default=-1)
    return {name: 0 if number is None else layers - number for name, number in numbers.items()}


def _number(inner: str | None) -> int | None:
    """-1 for the embeddings, a layer's number, ``None`` for the head and the norm before it."""
    if inner is None or is_head(inner):
        return None
    number = layer_number(inner)
    return -1 if number is None and EMBEDDING.search(inner) else number
