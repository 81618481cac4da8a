"""From a torch model to OpenVINO's files: torch.export carries the graph over, batch and length stay free."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastserve_core.errors import Unexportable
from fastserve_core.exports import one_line
from fastserve_core.quiet import silence, without_package

if TYPE_CHECKING:
    import openvino

MODEL = "openvino_model.xml"
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
MAX_BATCH = 4096
"""An upper bound for torch.export alone; OpenVINO's graph has a free batch dimension."""
LONGEST = 512
"""The limit of a model that has no table of positions."""


class Positional(nn.Module):
    """Inputs by their place, and a tuple of bare logits out, which is what torch.export likes."""

    def __init__(self, model: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.outputs = model, list(outputs)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        given = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, **given)
        return tuple(found[name] for name in self.outputs)


class OpenVINOExport:
    """How a model becomes ``openvino_model.xml`` and ``.bin``: inputs int64 (batch, length), outputs fp32 logits."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __init__(self, model: Any) -> None:
        """``model`` is one of transformers', in evaluation mode; it is set to torch's fused attention, and run once."""
        _fuse_attention(model)
        takes = set(signature(model.forward).parameters)
        if getattr(model.config, "type_vocab_size", 2) < 2:
            takes.discard("token_type_ids")  # RoBERTa has the argument, and one row in its table
        self.inputs = tuple(name for name in INPUT_NAMES if name in takes)
        self.longest = max_length(model)
        example, _ = self.example()
        with torch.no_grad():
            found = model(**dict(zip(self.inputs, example, strict=True)))
        self.outputs = tuple(name for name, one in found.items() if name.endswith("logits") and one is not None)
        self.module = Positional(model, self.outputs)

    def example(self) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
        """Inputs to trace with, and which of their dimensions stay free, for ``torch.export``."""
        batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
        length = torch.export.Dim("length", min=1, max=self.longest)
        # No dimension of the example may be 0 or 1: torch.export takes those for constants. And each input needs a
        # tensor of its own: of one that is passed twice it makes one input, without a word.
        example = tuple(torch.ones(2, min(16, self.longest), dtype=torch.long) for _ in self.inputs)
        return example, tuple({0: batch, 1: length} for _ in self.inputs)

    def write(self, module: nn.Module, folder: Path) -> None:
        """Write a graph made of ``self.module``, or that module itself; raises ``Unexportable`` with the reason."""
        with silence(), without_package("openvino_telemetry"), torch.no_grad(), one_line("converted"):
            graph = self._graph(module)
            self._check(graph)
            _write(graph, folder)

    def _graph(self, module: nn.Module) -> openvino.Model:
        """These are the steps of ``openvino.convert_model``, less its telemetry: that would run here whenever
        somebody else imported openvino before us."""
        from openvino._offline_transformations import (
            apply_moc_transformations,
            compress_quantize_weights_transformation,
        )
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

        example, shapes = self.example()
        program = torch.export.export(module, example, dynamic_shapes=shapes)
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchFXPythonDecoder.from_exported_program(program)  # must outlive the conversion: C++ calls into it
        graph: openvino.Model = frontend.convert(frontend.load(decoder))
        apply_moc_transformations(graph, cf=False, smart_reshape=True)
        # Without this the file of a quantized graph holds fp32 weights and a FakeQuantize for each.
        compress_quantize_weights_transformation(graph)
        for port, name in zip(graph.outputs, self.outputs, strict=True):
            port.get_tensor().set_names({name})
        return graph

    def _check(self, graph: openvino.Model) -> None:
        """Refuse a graph with other inputs, and one that would serve one shape only."""
        found = {port.get_any_name() for port in graph.inputs}
        if found != set(self.inputs):
            raise Unexportable(f"expected the inputs {', '.join(self.inputs)}, found {', '.join(sorted(found))}")
        for port in graph.inputs:
            if not all(size.is_dynamic for size in port.get_partial_shape()):
                raise Unexportable(f"input {port.get_any_name()} is fixed to the shape {port.get_partial_shape()}")


def _fuse_attention(model: Any) -> None:
    """Training builds models with attention in many steps: OpenVINO computes each apart, the one operator at once."""
    if getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation("sdpa")


def max_length(model: Any) -> int:
    """The longest input that the table of positions can serve; 512 for a model without one."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa counts positions from padding_idx + 1, so its first rows are never used.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return int(getattr(getattr(model, "config", None), "max_position_embeddings", LONGEST))


def _write(graph: openvino.Model, folder: Path) -> None:
    import openvino

    # The frontend numbers its nodes with a counter of the whole process: name them by place, so that equal
    # models give equal bytes.
    graph.set_friendly_name("fastserve")
    for number, node in enumerate(graph.get_ordered_ops()):
        if node.get_type_name() != "Parameter":  # an input's name is its interface
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, folder / MODEL, compress_to_fp16=False)
