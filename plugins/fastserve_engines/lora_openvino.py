"""Adapters in an OpenVINO graph: each adapted product adds the low-rank product that a token selects."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from fastserve_core.errors import ArtifactError
from fastserve_engines.lora import AdapterStack, Matrices, iterate_weights, read_tensor

ADAPTER_NUMBERS = "adapter_numbers"
"""Added input: of each token, the number of its adapter in the stack."""
FLAT_RANK = 2


def add_adapters(graph: Any, stack: AdapterStack, base: Path) -> None:
    """Add adapters to a graph whose texts are concatenated (``PagedDecodeEngine``).

    Args:
        graph: The graph, changed in place.
        stack: The adapters.
        base: Folder of the weights that the graph was made of, by which its products are recognized: their names are
            not kept.

    Raises:
        ArtifactError: The product of an adapted layer is not found, or not without doubt.
    """
    from openvino import PartialShape, Type, opset13

    products = _find_products(graph, stack, base)
    numbers = opset13.parameter(PartialShape([-1]), Type.i64, name=ADAPTER_NUMBERS)
    numbers.output(0).get_tensor().set_names({ADAPTER_NUMBERS})
    graph.add_parameters([numbers])
    flat = opset13.gather(opset13.constant(stack.masks), numbers, opset13.constant(np.int64(0)))
    masks = {FLAT_RANK: flat, FLAT_RANK + 1: opset13.unsqueeze(flat, opset13.constant(np.int64(1)))}
    for module, product in products.items():
        _add_product(product, stack.layers[module], masks)
    graph.validate_nodes_and_infer_types()


def _add_product(product: Any, matrices: Matrices, masks: dict[int, Any]) -> None:
    from openvino import opset13

    inputs, readers = product.input_value(0), product.output(0).get_target_inputs()
    mask = masks[inputs.get_partial_shape().rank.get_length()]
    first, second = map(opset13.constant, matrices)
    selected = opset13.multiply(opset13.matmul(inputs, first, False, True), mask)
    total = opset13.add(product, opset13.matmul(selected, second, False, True))
    for reader in readers:
        reader.replace_source_output(total.output(0))


def _find_products(graph: Any, stack: AdapterStack, base: Path) -> dict[str, Any]:
    """Return the matrix product of each adapted module."""
    by_shape: dict[tuple[int, ...], list[tuple[Any, Any]]] = defaultdict(list)
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "MatMul" and (weight := _weight_of(node)) is not None:
            by_shape[weight.shape].append((node, weight))
    files = {name: file for name, (file, _) in iterate_weights(base)}
    products = {}
    for module in stack.layers:
        weight = read_tensor(files[module], f"{module}.weight")
        found = [node for kind in (weight, weight.T) for node in _equal_nodes(kind, by_shape[kind.shape])]
        if len(set(map(id, found))) != 1:
            raise ArtifactError(
                f"OpenVINO's graph of {base} has {len(found)} products with the weights of {module}, and an adapter "
                "needs exactly one: use engine=torch"
            )
        products[module] = found[0]
    return products


def _weight_of(product: Any) -> np.ndarray[Any, Any] | None:
    """Return the weight of a product of all tokens that stands in the graph, as (outputs, inputs)."""
    node, attributes = product.input_value(1).get_node(), product.get_attributes()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    is_of_last_tokens = product.input_value(0).get_node().get_type_name() == "Gather"  # the logits
    if node.get_type_name() != "Constant" or is_of_last_tokens or attributes["transpose_a"]:
        return None
    data: np.ndarray[Any, Any] = node.data
    if data.ndim != FLAT_RANK:
        return None
    return data if attributes["transpose_b"] else data.T


def _equal_nodes(weight: np.ndarray[Any, Any], nodes: list[tuple[Any, Any]]) -> list[Any]:
    return [
        node
        for node, data in nodes
        if np.array_equal(data[0], weight[0].astype(data.dtype)) and np.array_equal(data, weight.astype(data.dtype))
    ]
