"""Weight-only quantization methods of neural-compressor, and access to the integers they produce."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastserve_core.errors import ExportError
from fastserve_neural_compressor.packed_weights import PackedWeight

TEQ_EPOCHS, TEQ_LEARNING_RATE = 4, 1e-3
AUTOROUND_STEPS = 100
"""Steps per block; auto-round's default of 200 takes twice as long."""


@dataclass(frozen=True)
class RoundingConfig:
    """Target of the quantization, and its calibration data.

    Attributes:
        bits: Bits of a weight, 8 or 4.
        group_size: Number of inputs of a row that share a scale and a zero point; -1 is the whole row.
        blocks: Token ids of shape (1, length), all of one length.
        folder: Folder with the model's files.
    """

    bits: int
    group_size: int
    blocks: Sequence[Tensor]
    folder: Path

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the arguments that the configs of all methods share."""
        return {"bits": self.bits, "use_sym": False, "group_size": self.group_size}


def quantize_rtn(model: nn.Module, config: RoundingConfig) -> Any:
    """Round to nearest; needs no data."""
    from neural_compressor.torch.quantization import RTNConfig, convert, prepare

    return convert(prepare(model, RTNConfig(**config.arguments, use_layer_wise=False)))


def quantize_gptq(model: nn.Module, config: RoundingConfig) -> Any:
    """Round column by column and compensate each error in the columns that follow (GPTQ, Frantar et al. 2022)."""
    from neural_compressor.torch.quantization import GPTQConfig, convert, prepare

    gptq_config = GPTQConfig(**config.arguments, use_layer_wise=False, model_path=str(config.folder))
    prepared = prepare(model, gptq_config)
    run_calibration(prepared, config.blocks)
    return convert(prepared)


def quantize_awq(model: nn.Module, config: RoundingConfig) -> Any:
    """Scale the inputs so that the most salient weights lose the least (AWQ, Lin et al. 2023)."""
    from neural_compressor.torch.quantization import AWQConfig, convert, prepare

    prepared = prepare(model, AWQConfig(**config.arguments, use_layer_wise=False), example_inputs=config.blocks[0])
    run_calibration(prepared, config.blocks)
    return convert(prepared)


def quantize_teq(model: nn.Module, config: RoundingConfig) -> Any:
    """Train scales of the inputs on the calibration data (TEQ, Cheng et al. 2023)."""
    from neural_compressor.torch.quantization import TEQConfig, convert, prepare

    teq_config = TEQConfig(**config.arguments, use_layer_wise=False, folding=False)
    prepared: Any = prepare(model, teq_config, example_inputs=config.blocks[0])
    with torch.enable_grad():
        optimizer = torch.optim.Adam(prepared._trained_alphas.values(), lr=TEQ_LEARNING_RATE)
        for _ in range(TEQ_EPOCHS):
            for ids in config.blocks:
                prepared(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    return convert(prepared)


def quantize_autoround(model: nn.Module, config: RoundingConfig) -> Any:
    """Train the rounding directions block by block (AutoRound, Cheng et al. 2023); needs the package auto-round."""
    from neural_compressor.torch.quantization import AutoRoundConfig, convert, prepare

    with tempfile.TemporaryDirectory(prefix="fastserve-") as scratch, torch.enable_grad():
        autoround_config = AutoRoundConfig(
            **config.arguments,
            iters=AUTOROUND_STEPS,
            nsamples=len(config.blocks),
            seqlen=config.blocks[0].shape[1],
            batch_size=min(8, len(config.blocks)),
            amp=False,
            device_map="cpu",
            scale_dtype="float32",
            export_format="fake",
            output_dir=scratch,
        )
        prepared = prepare(model, autoround_config)
        with torch.no_grad():
            run_calibration(prepared, config.blocks)
        return convert(prepared)


METHODS: dict[str, Callable[[nn.Module, RoundingConfig], Any]] = {
    "rtn": quantize_rtn,
    "gptq": quantize_gptq,
    "awq": quantize_awq,
    "teq": quantize_teq,
    "autoround": quantize_autoround,
}


def run_calibration(model: Any, blocks: Sequence[Tensor]) -> None:
    """Run the calibration data through a prepared model."""
    for ids in blocks:
        model(ids)


def unpack_weight(module: Any, bits: int) -> tuple[PackedWeight, Tensor | None]:
    """Return the integers of a converted layer, and the factors that its inputs are multiplied by.

    Args:
        module: Layer that a method has converted.
        bits: Bits of its weights.

    Returns:
        The weight, and the factors of shape (inputs,) or None.

    Raises:
        ExportError: The layer was not quantized.
    """
    factors = None
    if type(module).__name__ == "MulLinear":
        factors, module = module.input_scale.detach().float(), module.linear
    if hasattr(module, "unpack"):
        tensors = module.unpack()
        scales, zeros = tensors["scales"].float().numpy(), tensors["zp"].numpy()
        values = tensors["int_weight"].numpy()
    elif hasattr(module, "scale"):  # auto-round keeps the rounded weight with its scale and zero point
        scales, zeros = (getattr(module, name).detach().float().numpy() for name in ("scale", "zp"))
        groups = module.weight.detach().float().numpy().reshape(*scales.shape, -1)
        values = np.round(groups / scales[:, :, None]) + zeros[:, :, None]
    else:
        raise ExportError("neural-compressor did not quantize a layer")
    values = values.astype(np.uint8).reshape(*scales.shape, -1)
    return PackedWeight(values, scales[:, :, None], zeros.astype(np.uint8)[:, :, None], bits), factors
