"""Trained low-rank matrices in PEFT's files, to be served beside their base model or loaded by PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fastserve_core.artifacts import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE_DIGEST,
    weights_digest,
    write_json,
)

Matrices = dict[str, tuple[Tensor, Tensor]]
"""By the name of a module: (rank, inputs), and (outputs, rank) with the scale of the product."""


def extract_matrices(model: nn.Module, adapter: str) -> Matrices | None:
    """Copy the low-rank matrices out of a model with peft's adapters.

    Args:
        model: The model, whose adapters are not merged.
        adapter: peft's name of the adapter.

    Returns:
        The matrices; ``None`` if other parameters were trained too, such as a head, so that they are not all.
    """
    if any(".lora_" not in name for name, one in model.named_parameters() if one.requires_grad):
        return None
    found: Matrices = {}
    for name, module in model.named_modules():
        layer: Any = module
        if not hasattr(layer, "lora_A"):
            continue
        first, second, scale = layer.lora_A[adapter], layer.lora_B[adapter], float(layer.scaling[adapter])
        if hasattr(layer, "lora_E"):  # AdaLoRA: a singular value for each rank
            first, scale = first * layer.lora_E[adapter], scale / (float(layer.ranknum[adapter]) + 1e-5)
        else:
            first, second = first.weight, second.weight
        with torch.no_grad():
            found[name] = first.float().clone(), second.float() * scale
    return found


def write_adapter(folder: Path, matrices: Matrices, base: Path, settings: Mapping[str, Any]) -> None:
    """Write PEFT's files.

    Args:
        folder: The folder to write.
        matrices: The matrices of each module.
        base: The folder of the base model, whose name and hash are written too.
        settings: Further settings of peft's ``LoraConfig``.
    """
    folder.mkdir()
    rank = max(len(first) for first, _ in matrices.values())
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base.name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,  # the matrices are scaled
        "rank_pattern": {name: len(first) for name, (first, _) in matrices.items() if len(first) != rank},
        "alpha_pattern": {name: len(first) for name, (first, _) in matrices.items() if len(first) != rank},
        "target_modules": list(matrices),
        "bias": "none",
        **settings,
    }
    write_json(folder / ADAPTER_CONFIG, config)
    tensors = {
        f"base_model.model.{name}.lora_{letter}.weight": tensor.contiguous()
        for name, pair in matrices.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }
    save_file(tensors, folder / ADAPTER_WEIGHTS, {"format": "pt", BASE_DIGEST: weights_digest(base)})
