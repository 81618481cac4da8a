"""From a torch model to ``model.onnx``: batch and length stay free, and nothing of this machine is in the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from fastserve_core.export import FormatReader, single_line_error
from fastserve_core.processes import suppress_library_output
from fastserve_engines.exportable import TracedModel

MODEL = "model.onnx"
OPSET = 18
"""The one that torch writes without a conversion; its operators are in ONNX Runtime since 1.14."""
LARGEST = 1_800_000_000
"""Bytes of weights that go into the one file; protobuf ends at 2 GB, and what is beyond goes to a file beside it."""


class ONNXExport(TracedModel):
    """How a model becomes ``model.onnx``."""

    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxscript", "torch")
    install: ClassVar[str] = "fastserve-core[onnx]"
    engine: ClassVar[str] = "onnxruntime"
    about: ClassVar[Mapping[str, Any]] = {"opset": OPSET}
    tolerance: ClassVar[float] = 1e-3

    def write(self, module: nn.Module, folder: Path) -> None:
        with suppress_library_output(), torch.no_grad(), single_line_error("written as ONNX"):
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
            _strip_source_locations(program.model)
            folder.mkdir(parents=True, exist_ok=True)
            weights = sum(one.numel() * one.element_size() for one in module.parameters())
            program.save(folder / MODEL, external_data=weights > LARGEST)

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        from fastserve_engines.onnx_engine import ONNXRuntimeEngine

        return ONNXRuntimeEngine(folder, threads)


class ONNXInt8Export(ONNXExport):
    """The same file with 8-bit weights; activations are quantized as they come, by ONNX Runtime."""

    about: ClassVar[Mapping[str, Any]] = {"opset": OPSET, "weights": "int8"}
    tolerance: ClassVar[float] = 0.25

    def write(self, module: nn.Module, folder: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        super().write(module, folder)
        whole = folder / "whole.onnx"
        (folder / MODEL).rename(whole)
        with suppress_library_output(), single_line_error("quantized by ONNX Runtime"):
            quantize_dynamic(whole, folder / MODEL, per_channel=True, weight_type=QuantType.QInt8)
        whole.unlink()


def _strip_source_locations(model: Any) -> None:
    """Take out the lines of source code, with their paths, that torch notes at each operator."""
    for one in (model, model.graph, *model.graph.all_nodes()):
        one.metadata_props.clear()
