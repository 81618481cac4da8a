"""Integer weights in OpenVINO's graph: constants of 8 or 4 bits that its layers multiply by as they are."""

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
    """``values`` uint8 (out, groups, width); ``scales`` float32 and ``zeros`` uint8 (out, groups, 1)."""

    values: Any
    scales: Any
    zeros: Any
    bits: int

    def floats(self) -> torch.Tensor:
        """The weight (out, in) that the integers stand for."""
        found = (self.values.astype(np.float32) - self.zeros.astype(np.float32)) * self.scales
        return torch.from_numpy(found.reshape(len(found), -1))


def by_row(weight: torch.Tensor) -> PackedWeight:
    """A table in 8 bits, with a scale and a zero point for each row."""
    rows = weight.detach().float().numpy()
    low, high = rows.min(axis=1, keepdims=True).clip(max=0), rows.max(axis=1, keepdims=True).clip(min=0)
    scales = np.maximum(high - low, 1e-12) / 255
    zeros = np.round(-low / scales)
    values = np.clip(np.round(rows / scales) + zeros, 0, 255).astype(np.uint8)
    return PackedWeight(values[:, None], scales[:, None], zeros.astype(np.uint8)[:, None], TABLE_BITS)


def fingerprint(weight: Any) -> str:
    """What a weight is known by, here and in the graph: its bytes."""
    array = weight.detach().numpy() if isinstance(weight, torch.Tensor) else weight
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.float32).tobytes()).hexdigest()


def replace(graph: openvino.Model, found: Mapping[str, PackedWeight], least: int) -> None:
    """Put integers in the place of the weights with the same bytes; ``ExportError`` for fewer than ``least``."""
    number = 0
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) == 2:
            packed = (
                found.get(fingerprint(node.get_data())) if node.get_element_type().get_type_name() == "f32" else None
            )
            if packed is not None:
                users = list(node.output(0).get_target_inputs())
                made = _decompressed(packed, list(node.get_output_shape(0)))
                for user in users:
                    user.replace_source_output(made.output(0))
                number += 1
    if number < least:
        raise ExportError(f"only {number} of {least} weights were found again in the graph")
    graph.validate_nodes_and_infer_types()


def _decompressed(packed: PackedWeight, shape: list[int]) -> Any:
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
