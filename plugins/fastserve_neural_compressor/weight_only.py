"""Integer weights for a model: neural-compressor finds them, OpenVINO's graph holds them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastserve_core.errors import ExportError
from fastserve_core.export import load_format, single_line_error
from fastserve_core.processes import hide_package, suppress_library_output
from fastserve_neural_compressor.packed_weights import PackedWeight, by_row, fingerprint, replace
from fastserve_neural_compressor.static_quantization import quantize_embeddings
from fastserve_neural_compressor.weight_methods import METHODS, RoundingConfig, read_packed

if TYPE_CHECKING:
    import openvino

ROW = -1
"""A group that is a whole row of a weight."""


class ScaledLinear(nn.Module):
    """A linear layer whose inputs are multiplied first, each by a factor of its own."""

    factors: Tensor

    def __init__(self, linear: nn.Module, factors: Tensor) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("factors", factors)

    def forward(self, given: Tensor) -> Any:
        return self.linear(given * self.factors)


def quantize_weights(
    model: Any, folder: Path, bits: int, group_size: int, method: str = "rtn", blocks: Sequence[Tensor] = ()
) -> None:
    """Write OpenVINO's files with linear layers of ``bits`` (8 or 4) and a table of words of 8.

    A scale and a zero point for each ``group_size`` weights of a row, or for all of it with -1; ``method`` is one of
    ``METHODS``. ``model`` is one of transformers' causal language models in fp32, and has the folder that it was read
    from as ``name_or_path``; it is not changed. ``blocks`` are token ids (1, length), all of one length, for the
    methods that look at texts. Raises ``ExportError`` with the reason.
    """
    to = RoundingConfig(bits, group_size, blocks, Path(model.name_or_path))
    with suppress_library_output(), hide_package("openvino_telemetry"), torch.no_grad():
        twin = with_linears(model)
        names = list(linear_layers(twin, group_size))
        with single_line_error("quantized"):
            given = copy.deepcopy(twin)
            given.config.use_cache = False  # blocks are shown again and again, and must not see the keys of before
            converted = METHODS[method](given, to)
            found = _put_in(twin, {name: read_packed(converted.get_submodule(name), bits) for name in names})
        for table in (twin.get_input_embeddings(), twin.get_output_embeddings()):
            found.setdefault(fingerprint(table.weight), by_row(table.weight))
        export: Any = load_format("openvino_causal", twin)  # whose write also takes a change of the graph

        def shrink(graph: openvino.Model) -> None:
            replace(graph, found, len(names))

        export.write(export.module, folder, shrink)


def quantize_encoder(model: Any, folder: Path, embeddings: str = "int8") -> None:
    """Write OpenVINO's files with linear layers of 8 bits, a scale for each row; inputs are rounded while it runs.

    ``model`` is a transformers sequence or token classifier in fp32; it is not changed. Raises ``ExportError`` with
    the reason.
    """
    with suppress_library_output(), hide_package("openvino_telemetry"), torch.no_grad():
        twin = with_linears(model)
        names = list(linear_layers(twin, ROW))
        with single_line_error("quantized"):
            converted = METHODS["rtn"](copy.deepcopy(twin), RoundingConfig(8, ROW, (), folder))
            found = _put_in(twin, {name: read_packed(converted.get_submodule(name), 8) for name in names})
        if embeddings == "int8":
            quantize_embeddings(twin)
        export: Any = load_format("openvino", twin)
        export.write(export.module, folder, lambda graph: replace(graph, found, len(names)))


def with_linears(model: Any) -> Any:
    """A copy in which GPT-2's Conv1D are linear layers, which have their weight the other way round."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if type(module).__name__ == "Conv1D":
            inputs, outputs = module.weight.shape
            linear = nn.Linear(inputs, outputs)
            linear.weight.copy_(module.weight.T)
            linear.bias.copy_(module.bias)
            twin.set_submodule(name, linear)
    return twin


def linear_layers(model: Any, group_size: int) -> dict[str, nn.Linear]:
    """The layers to quantize, all but the one to the vocabulary; raises ``ExportError`` where they do not fit."""
    head = model.get_output_embeddings()
    found = {name: one for name, one in model.named_modules() if type(one) is nn.Linear and one is not head}
    if not found:
        raise ExportError("the model has no linear layer that neural-compressor quantizes")
    odd = [name for name, one in found.items() if group_size > 0 and one.in_features % group_size]
    if odd:
        width = found[odd[0]].in_features
        raise ExportError(f"group_size {group_size} does not divide the {width} inputs of {odd[0]}")
    return found


def _put_in(model: Any, rounded: dict[str, tuple[PackedWeight, Tensor | None]]) -> dict[str, PackedWeight]:
    """Have the model's layers compute with the rounded weights; the integers by what the weights are known by."""
    found = {}
    for name, (packed, factors) in rounded.items():
        layer = model.get_submodule(name)
        layer.weight.copy_(packed.floats())
        if factors is not None:
            model.set_submodule(name, ScaledLinear(layer, factors))
        found[fingerprint(layer.weight)] = packed
    return found
