"""Weight-only quantization: neural-compressor computes the integers, OpenVINO's graph holds them."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_core.errors import ExportError
from fastserve_core.export import load_format, wrap_export_errors
from fastserve_core.processes import hide_package, suppress_library_output
from fastserve_core.tasks import DEFAULT_OUTPUTS
from fastserve_neural_compressor.packed_weights import (
    PackedWeight,
    check_replaced,
    hash_weight,
    quantize_rows,
    replace_weights,
)
from fastserve_neural_compressor.static_quantization import quantize_embeddings
from fastserve_neural_compressor.weight_methods import METHODS, RoundingConfig, unpack_weight

PER_ROW = -1
"""Group size of a whole row."""


class ScaledLinear(nn.Module):
    """Linear layer whose inputs are multiplied by one factor each."""

    factors: Tensor

    def __init__(self, linear: nn.Module, factors: Tensor) -> None:
        """Wrap a linear layer with factors of shape (inputs,)."""
        super().__init__()
        self.linear = linear
        self.register_buffer("factors", factors)

    def forward(self, inputs: Tensor) -> Any:
        """Return the outputs for inputs of shape (..., inputs)."""
        return self.linear(inputs * self.factors)


def quantize_weights(
    model: Any,
    folder: Path,
    bits: int,
    group_size: int,
    method: str = "rtn",
    blocks: Sequence[Tensor] = (),
    uncompressed: Collection[str] = (),
) -> None:
    """Write OpenVINO files of a model that writes texts, with integer weights and 8-bit word tables.

    Args:
        model: Decoder of transformers, or encoder with a decoder, in fp32, which is not changed; ``name_or_path`` is
            its folder.
        folder: Folder to write.
        bits: Bits of the linear layers' weights, 8 or 4.
        group_size: Number of weights of a row that share a scale and a zero point; -1 is the whole row.
        method: One of ``METHODS``.
        blocks: Token ids of shape (1, length), all of one length, for the methods that need calibration.
        uncompressed: Names of modules that stay as they are.

    Raises:
        ExportError: The model cannot be quantized.
    """
    config = RoundingConfig(bits, group_size, blocks, Path(model.name_or_path))
    with suppress_library_output(), hide_package("openvino_telemetry"), torch.no_grad():
        duplicate = replace_conv1d(model)
        names = list(find_linear_layers(duplicate, group_size, uncompressed))
        with wrap_export_errors("quantized"):
            input_model = copy.deepcopy(duplicate)
            input_model.config.use_cache = False  # blocks are run repeatedly and must not see cached keys
            converted = METHODS[method](input_model, config)
            weights = _apply_weights(
                duplicate, {name: unpack_weight(converted.get_submodule(name), bits) for name in names}
            )
        modules = {module: name for name, module in duplicate.named_modules()}
        for table in (duplicate.get_input_embeddings(), duplicate.get_output_embeddings()):
            if modules[table] not in uncompressed:
                weights.setdefault(hash_weight(table.weight), quantize_rows(table.weight))
        to = "openvino_seq2seq" if model.config.is_encoder_decoder else "openvino_causal"
        _write_replaced(load_format(to, duplicate), folder, weights, len(names))


def quantize_encoder(
    model: Any,
    folder: Path,
    embeddings: str = "int8",
    uncompressed: Collection[str] = (),
    outputs: Sequence[str] = DEFAULT_OUTPUTS,
) -> None:
    """Write OpenVINO files with 8-bit linear layers, one scale per row, and dynamically quantized inputs.

    Args:
        model: Sequence or token classifier of transformers in fp32; it is not changed.
        folder: Folder to write.
        embeddings: Dtype of the embedding tables, ``int8`` or ``fp32``.
        uncompressed: Names of modules that stay as they are.
        outputs: Patterns of the names of the model's outputs.

    Raises:
        ExportError: The model cannot be quantized.
    """
    if model.config.is_encoder_decoder:
        raise ExportError(f"{type(model).__name__} is an encoder with a decoder, which runs in torch only")
    with suppress_library_output(), hide_package("openvino_telemetry"), torch.no_grad():
        duplicate = replace_conv1d(model)
        names = list(find_linear_layers(duplicate, PER_ROW, uncompressed))
        with wrap_export_errors("quantized"):
            converted = METHODS["rtn"](copy.deepcopy(duplicate), RoundingConfig(8, PER_ROW, (), folder))
            weights = _apply_weights(
                duplicate, {name: unpack_weight(converted.get_submodule(name), 8) for name in names}
            )
        if embeddings == "int8":
            quantize_embeddings(duplicate, uncompressed)
        _write_replaced(load_format("openvino", duplicate, outputs), folder, weights, len(names))


def _write_replaced(export: Any, folder: Path, weights: Mapping[str, PackedWeight], minimum: int) -> None:
    """Write the graphs of a model with integer weights, at least ``minimum`` of them together."""
    replaced: list[int] = []
    export.write(export.module, folder, lambda graph: replaced.append(replace_weights(graph, weights)))
    check_replaced(sum(replaced), minimum)


def replace_conv1d(model: Any) -> Any:
    """Return a copy of the model with linear layers in place of GPT-2's Conv1D, whose weight is transposed."""
    duplicate = copy.deepcopy(model)
    for name, module in list(duplicate.named_modules()):
        if type(module).__name__ == "Conv1D":
            inputs, outputs = module.weight.shape
            linear = nn.Linear(inputs, outputs)
            linear.weight.copy_(module.weight.T)
            linear.bias.copy_(module.bias)
            duplicate.set_submodule(name, linear)
    return duplicate


def find_used_linears(model: Any) -> set[nn.Module]:
    """Return the linear layers that the model's outputs depend on."""
    outputs: dict[nn.Module, Tensor] = {}
    linears = [module for module in model.modules() if type(module) is nn.Linear]

    def record(layer: nn.Module, _: Any, output: Tensor) -> None:
        outputs[layer] = output

    hooks = [layer.register_forward_hook(record) for layer in linears]
    try:
        with torch.enable_grad():
            ids = torch.ones(1, 2, dtype=torch.long)
            target = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
            results = model(input_ids=ids, **target).values()
            total = torch.stack([value.float().sum() for value in results if isinstance(value, Tensor)]).sum()
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(total, list(outputs.values()), allow_unused=True)
    return {layer for layer, gradient in zip(outputs, gradients, strict=True) if gradient is not None}


def find_linear_layers(model: Any, group_size: int, uncompressed: Collection[str] = ()) -> dict[str, nn.Linear]:
    """Return the linear layers to quantize by name, without the projection to the vocabulary.

    Layers that do not change the outputs, such as a decoder's attention to an encoder that it does not have, are not in
    a graph of the model either.

    Raises:
        ExportError: There is none, or the group size does not divide a layer's inputs.
    """
    head = model.get_output_embeddings()
    used = find_used_linears(model)
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and layer is not head and layer in used and name not in uncompressed
    }
    if not layers:
        raise ExportError("the model has no linear layer that neural-compressor quantizes")
    indivisible = [name for name, layer in layers.items() if group_size > 0 and layer.in_features % group_size]
    if indivisible:
        width = layers[indivisible[0]].in_features
        raise ExportError(f"group_size {group_size} does not divide the {width} inputs of {indivisible[0]}")
    return layers


def _apply_weights(model: Any, rounded: dict[str, tuple[PackedWeight, Tensor | None]]) -> dict[str, PackedWeight]:
    """Set the model's weights to the rounded ones, and return the integers by the weights' hashes."""
    packed_weights = {}
    for name, (packed, factors) in rounded.items():
        layer = model.get_submodule(name)
        layer.weight.copy_(packed.dequantize())
        if factors is not None:
            model.set_submodule(name, ScaledLinear(layer, factors))
        packed_weights[hash_weight(layer.weight)] = packed
    return packed_weights
