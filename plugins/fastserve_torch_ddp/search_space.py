"""The ready-made search space: which options are worth a tuner's trials, by the model's size and the method."""

from __future__ import annotations

from typing import Any

from fastserve_torch_ddp.options import DDPOptions

RATES = ((200e6, [2e-5, 1e-3]), (1e9, [1e-5, 3e-4]), (float("inf"), [5e-6, 1e-4]))
"""Learning rates by the size of a model's files in bytes: larger models bear less. MiniLM has 90 MB, BERT 440 MB."""
ADAPTERS = [1e-4, 5e-3]
"""Adapters begin as nothing and are few: they take ten times the rate of the weights beside them (Hu et al. 2021)."""


def search_space(options: DDPOptions, size_bytes: int) -> dict[str, Any]:
    """By option, as ``tune.*.space`` has it, the most important first."""
    adapted = options.method != "full"
    space: dict[str, Any] = {
        "lr": {"log": ADAPTERS if adapted else next(one for top, one in RATES if size_bytes < top)}
    }
    if options.batch_tokens is None:
        least = options.gradient_accumulation_steps * (options.nproc or 1) * options.nnodes
        space["batch_size"] = {"choice": [one for one in (16, 32, 64, 128) if one >= least][:3]}
    if adapted:
        space["adapter_rank"] = {"choice": [4, 8, 16, 32]}
    space |= {"warmup_ratio": [0.0, 0.3], "weight_decay": {"log": [1e-4, 0.3]}, "label_smoothing": [0.0, 0.2]}
    if not adapted:
        space["layer_decay"] = [0.7, 1.0]
    if len(space.get("batch_size", {}).get("choice", (0, 0))) < 2:
        del space["batch_size"]
    return space
