"""Neural-compressor's ways to round weights: what each needs, and how its integers are read."""

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

TEQ_EPOCHS, TEQ_RATE = 4, 1e-3
AUTOROUND_STEPS = 100
"""Steps for each block; auto-round's own 200 take twice as long."""


@dataclass(frozen=True)
class RoundingConfig:
    """What to round to: ``bits`` 8 or 4, a scale and a zero point for each ``group_size`` inputs of a row.

    ``blocks`` are token ids (1, length) to calibrate on, all of one length; ``folder`` has the model's files.
    """

    bits: int
    group_size: int
    blocks: Sequence[Tensor]
    folder: Path

    @property
    def common(self) -> dict[str, Any]:
        return {"bits": self.bits, "use_sym": False, "group_size": self.group_size}


def rtn(model: nn.Module, to: RoundingConfig) -> Any:
    """Round to nearest: needs no data."""
    from neural_compressor.torch.quantization import RTNConfig, convert, prepare

    return convert(prepare(model, RTNConfig(**to.common, use_layer_wise=False)))


def gptq(model: nn.Module, to: RoundingConfig) -> Any:
    """Columns one after another, each making up for the errors of those before (Frantar et al. 2022)."""
    from neural_compressor.torch.quantization import GPTQConfig, convert, prepare

    config = GPTQConfig(**to.common, use_layer_wise=False, model_path=str(to.folder))
    prepared = prepare(model, config)
    forward_calibration(prepared, to.blocks)
    return convert(prepared)


def awq(model: nn.Module, to: RoundingConfig) -> Any:
    """Inputs scaled so that the weights that matter most lose least (Lin et al. 2023)."""
    from neural_compressor.torch.quantization import AWQConfig, convert, prepare

    prepared = prepare(model, AWQConfig(**to.common, use_layer_wise=False), example_inputs=to.blocks[0])
    forward_calibration(prepared, to.blocks)
    return convert(prepared)


def teq(model: nn.Module, to: RoundingConfig) -> Any:
    """Scales of the inputs that are learnt on the texts (Cheng et al. 2023)."""
    from neural_compressor.torch.quantization import TEQConfig, convert, prepare

    config = TEQConfig(**to.common, use_layer_wise=False, folding=False)
    prepared: Any = prepare(model, config, example_inputs=to.blocks[0])
    with torch.enable_grad():
        learnt = torch.optim.Adam(prepared._trained_alphas.values(), lr=TEQ_RATE)
        for _ in range(TEQ_EPOCHS):
            for ids in to.blocks:
                prepared(input_ids=ids, labels=ids).loss.backward()
                learnt.step()
                learnt.zero_grad()
    return convert(prepared)


def autoround(model: nn.Module, to: RoundingConfig) -> Any:
    """Rounding up or down is learnt, block by block (Cheng et al. 2023); needs the package auto-round."""
    from neural_compressor.torch.quantization import AutoRoundConfig, convert, prepare

    with tempfile.TemporaryDirectory(prefix="fastserve-") as scratch, torch.enable_grad():
        config = AutoRoundConfig(
            **to.common,
            iters=AUTOROUND_STEPS,
            nsamples=len(to.blocks),
            seqlen=to.blocks[0].shape[1],
            batch_size=min(8, len(to.blocks)),
            amp=False,
            device_map="cpu",
            scale_dtype="float32",
            export_format="fake",
            output_dir=scratch,
        )
        prepared = prepare(model, config)
        with torch.no_grad():
            forward_calibration(prepared, to.blocks)
        return convert(prepared)


METHODS: dict[str, Callable[[nn.Module, RoundingConfig], Any]] = {
    "rtn": rtn,
    "gptq": gptq,
    "awq": awq,
    "teq": teq,
    "autoround": autoround,
}


def forward_calibration(model: Any, blocks: Sequence[Tensor]) -> None:
    """Show the texts to a prepared model."""
    for ids in blocks:
        model(ids)


def read_packed(module: Any, bits: int) -> tuple[PackedWeight, Tensor | None]:
    """A converted layer's integers, and what its inputs are to be multiplied by, if anything."""
    factors = None
    if type(module).__name__ == "MulLinear":
        factors, module = module.input_scale.detach().float(), module.linear
    if hasattr(module, "unpack"):
        one = module.unpack()
        scales, zeros, values = one["scales"].float().numpy(), one["zp"].numpy(), one["int_weight"].numpy()
    elif hasattr(module, "scale"):  # auto-round leaves the rounded weight and what it was rounded with
        scales, zeros = (getattr(module, name).detach().float().numpy() for name in ("scale", "zp"))
        groups = module.weight.detach().float().numpy().reshape(*scales.shape, -1)
        values = np.round(groups / scales[:, :, None]) + zeros[:, :, None]
    else:
        raise ExportError("neural-compressor left a layer as it was")
    values = values.astype(np.uint8).reshape(*scales.shape, -1)
    return PackedWeight(values, scales[:, :, None], zeros.astype(np.uint8)[:, :, None], bits), factors
