"""Adapters on a torch model: each adapted layer adds the low-rank product that a row of the batch selects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastserve_core.errors import ArtifactError
from fastserve_engines.lora import AdapterStack


class TorchAdapters:
    """Adapters that are attached to a model; ``select`` chooses those of the next pass.

    Args:
        model: The base model, which gets a hook at each adapted layer.
        stack: The adapters.

    Raises:
        ArtifactError: The model has no such layer.
    """

    def __init__(self, model: Any, stack: AdapterStack) -> None:
        self._numbers = stack.numbers
        self._masks = torch.from_numpy(stack.masks)
        self._mask: Tensor | None = None
        modules = dict(model.named_modules())
        for name, matrices in stack.layers.items():
            if name not in modules:
                raise ArtifactError(f"the base model has no layer {name}, which an adapter changes")
            first, second = (torch.from_numpy(matrix).to(modules[name].weight.dtype) for matrix in matrices)
            modules[name].register_forward_hook(partial(self._add, first, second))

    def select(self, names: Sequence[str | None]) -> None:
        """Set the adapter of each row of the next pass; ``None`` is the base model."""
        numbers = [self._numbers[name] for name in names]
        self._mask = self._masks[numbers][:, None] if any(numbers) else None

    def _add(self, first: Tensor, second: Tensor, module: Any, inputs: tuple[Tensor], outputs: Tensor) -> Tensor:
        if self._mask is None:
            return outputs
        selected = (inputs[0] @ first.T) * self._mask.to(first.dtype)
        return outputs + selected @ second.T
