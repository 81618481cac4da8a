"""Training with the errors of quantization (Jacob et al. 2018): linear layers that compute as integer ones would."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastserve_core.errors import InvalidModel

LEVELS = {"int8": 63.5, "int4": 7.5}
"""By format, half of the steps between a weight's least and most. Of 8 bits, 7 are used: ``neural_compressor`` spares
one, for processors that add up in 16 bits."""
ACTIVATION_MAX = 255
MOMENTUM = 0.05
"""How far a step moves an activation's range towards that of its batch."""


class QuantizeAware:
    """Has a model's linear layers compute with rounded weights and inputs; gradients pass as if they were not.

    Weights are symmetric by output channel, inputs asymmetric by tensor in 8 bits, with ranges that follow the batches
    while the model trains and stand still while it is evaluated. The state dict stays what it is: ``ranges`` (layers,
    2) are kept here, and are to be saved with a checkpoint. A layer that has seen nothing yet has none: NaN.
    """

    def __init__(self, model: nn.Module, weights: str, device: torch.device) -> None:
        if any(type(one).__name__ == "Conv1D" for one in model.modules()):
            raise InvalidModel("compress.distill.quantize_aware knows linear layers, and this model has GPT-2's Conv1D")
        self.levels = LEVELS[weights]
        layers = [one for one in model.modules() if isinstance(one, nn.Linear)]
        self.ranges = torch.full((len(layers), 2), torch.nan, device=device)
        for number, layer in enumerate(layers):
            self._wrap(layer, number)

    def _wrap(self, layer: Any, number: int) -> None:
        def forward(given: Tensor) -> Tensor:
            if layer.training:
                self._follow(number, given.detach())
            inputs = rounded_inputs(given, self.ranges[number])
            found: Tensor = functional.linear(inputs, rounded_weights(layer.weight, self.levels), layer.bias)
            return found

        layer.forward = forward

    @torch.no_grad()
    def _follow(self, number: int, given: Tensor) -> None:
        """Move the range, which always holds 0, so that what is masked or padded stays exact."""
        low, high = (one.float() for one in torch.aminmax(given))
        seen = torch.stack([low.clamp_max(0), high.clamp_min(0)])
        kept = self.ranges[number]
        kept.copy_(torch.where(kept.isnan(), seen, kept.lerp(seen, MOMENTUM)))


def rounded_weights(weight: Tensor, levels: float) -> Tensor:
    """A weight (outputs, inputs) in steps of its own for each output; in the weight's number format."""
    whole = weight.float()
    scales = whole.detach().abs().amax(dim=1).clamp_min(1e-12) / levels
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    most = round(levels)
    found = torch.fake_quantize_per_channel_affine(whole, scales, zeros, 0, -most, most)
    return found.to(weight.dtype)


def rounded_inputs(given: Tensor, bounds: Tensor) -> Tensor:
    """Inputs in 255 steps between two bounds, and cut off there; as they are where the bounds are not known yet."""
    if bool(bounds.isnan().any()):
        return given
    scale = ((bounds[1] - bounds[0]) / ACTIVATION_MAX).clamp_min(1e-12)
    zero = (-bounds[0] / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(given.float(), scale, zero, 0, ACTIVATION_MAX).to(given.dtype)
