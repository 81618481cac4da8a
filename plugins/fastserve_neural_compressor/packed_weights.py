"""Integer weights in OpenVINO's graph: constants of 8 or 4 bits with a decompression subgraph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastserve_core.errors import ExportError

if TYPE_CHECKING:
    import openvino

TABLE_BITS = 8


@dataclass(frozen=True)
class PackedWeight:
    """Integer weight with its scales and zero points.

    Attributes:
        values: uint8 array of shape (outputs, groups, group size).
        scales: float32 array of shape (outputs, groups, 1).
        zeros: uint8 array of shape (outputs, groups, 1).
        bits: Bits of a value, 8 or 4.
    """

    values: Any
    scales: Any
    zeros: Any
    bits: int

    def dequantize(self) -> torch.Tensor:
        """Return the weight (outputs, inputs) in fp32."""
        weight = (self.values.astype(np.float32) - self.zeros.astype(np.float32)) * self.scales
        return torch.from_numpy(weight.reshape(len(weight), -1))


def quantize_rows(weight: torch.Tensor) -> PackedWeight:
    """Quantize a table (rows, columns) to 8 bits, with a scale and a zero point per row."""
    rows = weight.detach().float().numpy()
    low, high = rows.min(axis=1, keepdims=True).clip(max=0), rows.max(axis=1, keepdims=True).clip(min=0)
    scales = np.maximum(high - low, 1e-12) / 255
    zeros = np.round(-low / scales)
    values = np.clip(np.round(rows / scales) + zeros, 0, 255).astype(np.uint8)
    return PackedWeight(values[:, None], scales[:, None], zeros.astype(np.uint8)[:, None], TABLE_BITS)


def hash_weight(weight: Any) -> str:
    """Return the SHA-256 of a weight's fp32 bytes, which identifies it in the graph."""
    array = weight.detach().numpy() if isinstance(weight, torch.Tensor) else weight
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.float32).tobytes()).hexdigest()


def replace_weights(graph: openvino.Model, weights: Mapping[str, PackedWeight]) -> int:
    """Replace fp32 constants by the integers of the same weights, and return how many were found.

    Args:
        graph: Graph, changed in place.
        weights: Integer weights by ``hash_weight`` of their dequantized values.
    """
    replaced = 0
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) == 2:
            is_fp32 = node.get_element_type().get_type_name() == "f32"
            packed = weights.get(hash_weight(node.get_data())) if is_fp32 else None
            if packed is not None:
                users = list(node.output(0).get_target_inputs())
                decompression = _make_decompression(packed, list(node.get_output_shape(0)))
                for user in users:
                    user.replace_source_output(decompression.output(0))
                replaced += 1
    graph.validate_nodes_and_infer_types()
    return replaced


def check_replaced(replaced: int, minimum: int) -> None:
    """Raise ``ExportError`` if fewer weights were replaced than a model has."""
    if replaced < minimum:
        raise ExportError(f"only {replaced} of {minimum} weights were found in the graph")


def _make_decompression(packed: PackedWeight, shape: list[int]) -> Any:
    """Return (values - zeros) * scales, the subgraph that OpenVINO recognizes as a compressed weight."""
    import openvino
    from openvino import opset13

    element_type = openvino.Type.u4 if packed.bits == 4 else openvino.Type.u8
    one_group = packed.values.shape[1] == 1

    def constant(array: Any) -> Any:
        array = array[:, 0] if one_group else array
        if element_type == openvino.Type.u8:
            return opset13.constant(array)
        flat = np.append(array.reshape(-1), np.zeros(array.size % 2, np.uint8))
        tensor = openvino.Tensor(flat[::2] | flat[1::2] << 4, list(array.shape), element_type)
        return opset13.constant(tensor, shared_memory=False)

    values, zeros = (opset13.convert(constant(array), "f32") for array in (packed.values, packed.zeros))
    scales = packed.scales[:, 0] if one_group else packed.scales
    product = opset13.multiply(opset13.subtract(values, zeros), opset13.constant(scales.astype(np.float32)))
    return product if one_group else opset13.reshape(product, opset13.constant(np.array(shape)), False)
