"""Integer weights for a causal language model: neural-compressor finds them, OpenVINO's graph holds them."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fastserve_core.errors import Unexportable
from fastserve_core.exports import exporter, one_line
from fastserve_core.quiet import silence, without_package

if TYPE_CHECKING:
    import openvino

TABLE_BITS = 8


@dataclass(frozen=True)
class Packed:
    """``values`` uint8 (out, groups, width); ``scales`` float32 and ``zeros`` uint8 (out, groups, 1)."""

    values: Any
    scales: Any
    zeros: Any
    bits: int


def quantize_weights(model: Any, folder: Path, bits: int, group_size: int) -> None:
    """Write OpenVINO's files with linear layers of ``bits`` (8 or 4) and a table of words of 8.

    Rounds to nearest (RTN), a scale and a zero point for each ``group_size`` weights of a row. ``model`` is one of
    transformers' causal language models in fp32; it is not changed. Raises ``Unexportable`` with the reason.
    """
    linears = linear_layers(model, group_size)
    with silence(), without_package("openvino_telemetry"), torch.no_grad():
        with one_line("quantized"):
            packed = {name: _packed(module, bits) for name, module in _rtn(model, bits, group_size, linears).items()}
        found = {_sign(linears[name].weight): one for name, one in packed.items()}
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            found.setdefault(_sign(table.weight), by_row(table.weight))
        export: Any = exporter("openvino_causal", model)  # whose write also takes a change of the graph

        def shrink(graph: openvino.Model) -> None:
            _replace(graph, found, len(linears))

        export.write(export.module, folder, shrink)


def linear_layers(model: Any, group_size: int) -> dict[str, nn.Linear]:
    """The layers to quantize, all but the one to the vocabulary; raises ``Unexportable`` where they do not fit."""
    head = model.get_output_embeddings()
    found = {name: one for name, one in model.named_modules() if type(one) is nn.Linear and one is not head}
    if any(type(one).__name__ == "Conv1D" for one in model.modules()):
        raise Unexportable("GPT-2's layers are Conv1D, which neural-compressor's weights are not taken of yet")
    if not found:
        raise Unexportable("the model has no linear layer that neural-compressor quantizes")
    odd = [name for name, one in found.items() if group_size > 0 and one.in_features % group_size]
    if odd:
        width = found[odd[0]].in_features
        raise Unexportable(f"group_size {group_size} does not divide the {width} inputs of {odd[0]}")
    return found


def _rtn(model: Any, bits: int, group_size: int, linears: dict[str, nn.Linear]) -> dict[str, Any]:
    from neural_compressor.torch.quantization import RTNConfig, convert, prepare

    config = RTNConfig(bits=bits, use_sym=False, group_size=group_size, use_layer_wise=False)
    done = convert(prepare(copy.deepcopy(model), config))
    return {name: done.get_submodule(name) for name in linears}


def _packed(module: Any, bits: int) -> Packed:
    """What neural-compressor packed, as it is."""
    one = module.unpack()
    scales = one["scales"].float().numpy()[:, :, None]
    values = one["int_weight"].numpy().astype(np.uint8).reshape(*scales.shape[:2], -1)
    return Packed(values, scales, one["zp"].numpy().astype(np.uint8)[:, :, None], bits)


def by_row(weight: torch.Tensor) -> Packed:
    """A table in 8 bits, with a scale and a zero point for each row."""
    rows = weight.detach().float().numpy()
    low, high = rows.min(axis=1, keepdims=True).clip(max=0), rows.max(axis=1, keepdims=True).clip(min=0)
    scales = np.maximum(high - low, 1e-12) / 255
    zeros = np.round(-low / scales)
    values = np.clip(np.round(rows / scales) + zeros, 0, 255).astype(np.uint8)
    return Packed(values[:, None], scales[:, None], zeros.astype(np.uint8)[:, None], TABLE_BITS)


def _sign(weight: Any) -> str:
    array = weight.detach().numpy() if isinstance(weight, torch.Tensor) else weight
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.float32).tobytes()).hexdigest()


def _replace(graph: openvino.Model, found: dict[str, Packed], least: int) -> None:
    """Put integers in the place of the weights with the same bytes."""
    number = 0
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) == 2:
            packed = found.get(_sign(node.get_data())) if node.get_element_type().get_type_name() == "f32" else None
            if packed is not None:
                users = list(node.output(0).get_target_inputs())
                made = _decompressed(packed, list(node.get_output_shape(0)))
                for user in users:
                    user.replace_source_output(made.output(0))
                number += 1
    if number < least:
        raise Unexportable(f"only {number} of {least} weights were found again in the graph")
    graph.validate_nodes_and_infer_types()


def _decompressed(packed: Packed, shape: list[int]) -> Any:
    """The subgraph that OpenVINO takes for a compressed weight: (values - zeros) * scales."""
    import openvino
    from openvino import opset13

    kind = openvino.Type.u4 if packed.bits == 4 else openvino.Type.u8
    one_group = packed.values.shape[1] == 1

    def constant(array: Any) -> Any:
        array = array[:, 0] if one_group else array
        if kind == openvino.Type.u8:
            return opset13.constant(array)
        flat = np.append(array.reshape(-1), np.zeros(array.size % 2, np.uint8))
        tensor = openvino.Tensor(flat[::2] | flat[1::2] << 4, list(array.shape), kind)
        return opset13.constant(tensor, shared_memory=False)

    values, zeros = (opset13.convert(constant(one), "f32") for one in (packed.values, packed.zeros))
    scales = packed.scales[:, 0] if one_group else packed.scales
    made = opset13.multiply(opset13.subtract(values, zeros), opset13.constant(scales.astype(np.float32)))
    return made if one_group else opset13.reshape(made, opset13.constant(np.array(shape)), False)
