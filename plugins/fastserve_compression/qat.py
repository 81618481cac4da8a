"""Quantization-aware training (Jacob et al. 2018): linear layers with fake-quantized weights and inputs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastserve_core.errors import ModelError

LEVELS = {"int8": 63.5, "int4": 7.5}
"""Largest quantized magnitude by dtype. ``int8`` uses 7 of 8 bits, as ``neural_compressor`` does, because some
processors accumulate in 16 bits."""
ACTIVATION_MAX = 255
MOMENTUM = 0.05
"""Weight of a batch in the moving average of an activation's range."""


class FakeQuantizer:
    """Fake quantization of a model's linear layers; gradients pass straight through.

    Weights are symmetric by output channel, inputs asymmetric by tensor in 8 bits. Input ranges follow the batches in
    training mode and are constant in evaluation mode. The model's state dict does not change, so ``ranges``, of shape
    (layers, 2), must be saved with a checkpoint. A layer without any input so far has the range NaN.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: str,
        device: torch.device,
        uncompressed: Collection[str] = (),
    ) -> None:
        """Wrap the linear layers of the model.

        Args:
            model: Model, changed in place.
            weights: Dtype of the weights, ``int8`` or ``int4``.
            device: Device of the ranges.
            uncompressed: Names of modules that stay as they are.

        Raises:
            ModelError: The model has ``Conv1D`` layers.
        """
        if any(type(module).__name__ == "Conv1D" for module in model.modules()):
            raise ModelError("compress.distill.quantize_aware does not support GPT-2's Conv1D, only linear layers")
        self.levels = LEVELS[weights]
        layers = [
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name not in uncompressed
        ]
        self.ranges = torch.full((len(layers), 2), torch.nan, device=device)
        for index, layer in enumerate(layers):
            self._wrap(layer, index)

    def _wrap(self, layer: Any, index: int) -> None:
        def forward(inputs: Tensor) -> Tensor:
            if layer.training:
                self._update_range(index, inputs.detach())
            rounded = fake_quantize_inputs(inputs, self.ranges[index])
            outputs: Tensor = functional.linear(rounded, fake_quantize_weights(layer.weight, self.levels), layer.bias)
            return outputs

        layer.forward = forward

    @torch.no_grad()
    def _update_range(self, index: int, inputs: Tensor) -> None:
        """Update the range, which always contains 0 so that masked and padded values stay exact."""
        low, high = (bound.float() for bound in torch.aminmax(inputs))
        observed = torch.stack([low.clamp_max(0), high.clamp_min(0)])
        bounds = self.ranges[index]
        bounds.copy_(torch.where(bounds.isnan(), observed, bounds.lerp(observed, MOMENTUM)))


def fake_quantize_weights(weight: Tensor, levels: float) -> Tensor:
    """Round a weight (outputs, inputs) with one scale per output; the dtype does not change."""
    full = weight.float()
    scales = full.detach().abs().amax(dim=1).clamp_min(1e-12) / levels
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    limit = round(levels)
    rounded = torch.fake_quantize_per_channel_affine(full, scales, zeros, 0, -limit, limit)
    return rounded.to(weight.dtype)


def fake_quantize_inputs(inputs: Tensor, bounds: Tensor) -> Tensor:
    """Round inputs to 255 steps between two bounds and clip them there.

    Args:
        inputs: Tensor of any shape.
        bounds: Lower and upper bound, of shape (2,); with NaN the inputs are returned unchanged.
    """
    if bool(bounds.isnan().any()):
        return inputs
    scale = ((bounds[1] - bounds[0]) / ACTIVATION_MAX).clamp_min(1e-12)
    zero = (-bounds[0] / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(inputs.float(), scale, zero, 0, ACTIVATION_MAX).to(inputs.dtype)
