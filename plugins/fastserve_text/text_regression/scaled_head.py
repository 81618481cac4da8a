"""A head for numbers of any scale: it learns standardised ones, and its outputs are in the user's unit all the time.

An optimizer such as Adam changes every weight by about the learning rate, so that a head would need millions of steps
to numbers like 250,000. When the training ends, mean and scale are folded into the weights: the saved model has a
plain linear layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from typing_extensions import override

from fastserve_text.heads import head_linears

if TYPE_CHECKING:
    from torch import Tensor

    from fastserve_text.text_regression.scale import Scale


class ScaledLinear(nn.Linear):
    """A linear layer with the weights of standardised outputs, and outputs in the user's unit in single precision."""

    mean: float
    scale: float

    @override
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).float() * self.scale + self.mean


def scale_head(model: Any, scale: Scale, is_kept: bool) -> None:
    """Replace a model's head by a scaled one.

    Args:
        model: The model, changed in place.
        scale: Mean and scale of the numbers.
        is_kept: Whether the head was trained before, so that the model's outputs must stay as they are.
    """
    for name in head_linears(model, 1):
        head = model.get_submodule(name)
        scaled = ScaledLinear(head.in_features, head.out_features, head.bias is not None, dtype=head.weight.dtype)
        # a head without a bias has no place for a mean
        scaled.mean, scaled.scale = (scale.mean, scale.deviation) if head.bias is not None else (0.0, scale.root)
        with torch.no_grad():
            scaled.weight.copy_(head.weight / scaled.scale if is_kept else head.weight)
            if head.bias is not None:
                scaled.bias.copy_((head.bias - scaled.mean) / scaled.scale if is_kept else head.bias)
        _replace(model, name, scaled)


def fold_head(model: Any) -> None:
    """Replace the scaled head of a model by a linear layer with the same outputs."""
    for name, head in [(name, module) for name, module in model.named_modules() if isinstance(module, ScaledLinear)]:
        folded = nn.Linear(head.in_features, head.out_features, head.bias is not None, dtype=head.weight.dtype)
        with torch.no_grad():
            folded.weight.copy_(head.weight * head.scale)
            if head.bias is not None:
                folded.bias.copy_(head.bias * head.scale + head.mean)
        _replace(model, name, folded)


def _replace(model: Any, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
