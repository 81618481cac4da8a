"""The suggested search space of the trainer's options, by the model's size and the fine-tuning method."""

from __future__ import annotations

from typing import Any

from fastserve_torch_ddp.options import DDPOptions

LEARNING_RATES = ((200e6, [2e-5, 1e-3]), (1e9, [1e-5, 3e-4]), (float("inf"), [5e-6, 1e-4]))
"""Learning rates up to a size of the model's files in bytes: larger models need smaller ones. MiniLM has 90 MB, BERT
440 MB."""
ADAPTER_LEARNING_RATES = [1e-4, 5e-3]
"""Adapters are few and start at zero: they need ten times the learning rate of full fine-tuning (Hu et al. 2021)."""


def suggest_search_space(options: DDPOptions, size_bytes: int) -> dict[str, Any]:
    """Return the range of each option in the format of ``tune.*.space``, the most important option first.

    Args:
        options: The trainer's options.
        size_bytes: The size of the model's files.
    """
    has_adapters = options.method != "full"
    rates = next(rates for limit, rates in LEARNING_RATES if size_bytes < limit)
    space: dict[str, Any] = {"lr": {"log": ADAPTER_LEARNING_RATES if has_adapters else rates}}
    if options.batch_tokens is None:
        minimum = options.gradient_accumulation_steps * (options.nproc or 1) * options.nnodes
        sizes = [size for size in (16, 32, 64, 128) if size >= minimum][:3]
        if len(sizes) > 1:
            space["batch_size"] = {"choice": sizes}
    if has_adapters:
        space["adapter_rank"] = {"choice": [4, 8, 16, 32]}
    space |= {"warmup_ratio": [0.0, 0.3], "weight_decay": {"log": [1e-4, 0.3]}, "label_smoothing": [0.0, 0.2]}
    if not has_adapters:
        space["layer_decay"] = [0.7, 1.0]
    return space
