"""Export to ``model.onnx`` with dynamic batch and length, and without paths of this machine."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from fastserve_core.errors import ExportError
from fastserve_core.export import FormatReader, fixed_shape_message, wrap_export_errors
from fastserve_core.processes import suppress_library_output
from fastserve_engines.exportable import TracedModel

MODEL_FILE = "model.onnx"
OPSET = 18
"""Version that torch writes without a conversion; ONNX Runtime supports it since 1.14."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""Entry of a node's metadata: the list of the modules that it is in, as Python writes it."""
MAX_INLINE_BYTES = 1_800_000_000
"""Maximum size of the weights inside the file; protobuf is limited to 2 GB. Larger weights go to a second file."""


class ONNXExport(TracedModel):
    """Export to ``model.onnx``."""

    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxscript", "torch")
    install: ClassVar[str] = "fastserve-core[onnx]"
    engine: ClassVar[str] = "onnxruntime"
    about: ClassVar[Mapping[str, Any]] = {"opset": OPSET}
    tolerance: ClassVar[float] = 1e-3

    def write(self, module: nn.Module, folder: Path) -> None:
        """Write the file.

        Args:
            module: Module with the interface of ``self.module``.
            folder: Folder to write.

        Raises:
            ExportError: torch cannot export the module.
        """
        with suppress_library_output(), torch.no_grad(), wrap_export_errors("written as ONNX"):
            example, shapes = self.example()
            program: Any = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=self.inputs,
                output_names=self.outputs,
                dynamic_shapes=shapes,
                verbose=False,
            )
            _check_inputs(program.model.graph.inputs)
            self._record_uncompressed_nodes(program.model)
            _rename_inner_values(program.model.graph)
            _strip_source_locations(program.model)
            folder.mkdir(parents=True, exist_ok=True)
            weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
            program.save(folder / MODEL_FILE, external_data=weights > MAX_INLINE_BYTES)

    def _record_uncompressed_nodes(self, model: Any) -> None:
        """Keep the names of the nodes inside the modules whose weights stay as they are."""
        self.uncompressed_nodes = [
            node.name
            for node in model.graph.all_nodes()
            if self.uncompressed.intersection(ast.literal_eval(node.metadata_props.get(SCOPES, "[]")))
        ]

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        """Load the file with ONNX Runtime."""
        from fastserve_engines.onnx_engine import ONNXRuntimeEngine

        return ONNXRuntimeEngine(folder, threads)


class ONNXInt8Export(ONNXExport):
    """Export to ``model.onnx`` with 8-bit weights; ONNX Runtime quantizes activations dynamically."""

    about: ClassVar[Mapping[str, Any]] = {"opset": OPSET, "weights": "int8"}
    tolerance: ClassVar[float] = 0.25

    def write(self, module: nn.Module, folder: Path) -> None:
        """Write the file and quantize its weights.

        Args:
            module: Module with the interface of ``self.module``.
            folder: Folder to write.

        Raises:
            ExportError: The module cannot be exported or quantized.
        """
        from onnxruntime.quantization import QuantType, quantize_dynamic

        super().write(module, folder)
        original = folder / "original.onnx"
        (folder / MODEL_FILE).rename(original)
        with suppress_library_output(), wrap_export_errors("quantized by ONNX Runtime"):
            quantize_dynamic(
                original,
                folder / MODEL_FILE,
                per_channel=True,
                weight_type=QuantType.QInt8,
                # ONNX Runtime splits a Gemm, and names its product so
                nodes_to_exclude=[name + end for name in self.uncompressed_nodes for end in ("", "_MatMul")],
            )
        original.unlink()


def _check_inputs(inputs: Any) -> None:
    """Raise ``ExportError`` for a graph with static shapes, which torch may write without a word."""
    for value in inputs:
        if any(isinstance(size, int) for size in value.shape):
            raise ExportError(fixed_shape_message(value.name, value.shape))


def _rename_inner_values(graph: Any) -> None:
    """Rename values that have the name of an output: torch names a value after its operator, such as ``embedding``."""
    names = {value.name for value in graph.outputs}
    for value in (value for node in graph.all_nodes() for value in node.outputs):
        if value.name in names and not value.is_graph_output():
            value.name = f"inner_{value.name}"


def _strip_source_locations(model: Any) -> None:
    """Remove the source lines and paths that torch records for each operator."""
    for element in (model, model.graph, *model.graph.all_nodes()):
        element.metadata_props.clear()
