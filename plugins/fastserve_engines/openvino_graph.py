"""From a torch model to OpenVINO's files: torch.export carries the graph over, batch and length stay free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from fastserve_core.errors import ExportError
from fastserve_core.export import FormatReader, single_line_error
from fastserve_core.processes import hide_package, suppress_library_output
from fastserve_engines.exportable import TracedModel

if TYPE_CHECKING:
    import openvino

    Change = Callable[[openvino.Model], None]

MODEL = "openvino_model.xml"


class OpenVINOExport(TracedModel):
    """How a model becomes ``openvino_model.xml`` and ``.bin``.

    Of a model with 16 bit weights the file holds fp16 constants, which every bf16 weight of a usual size fits into
    without a loss.
    """

    requires: ClassVar[tuple[str, ...]] = ("openvino", "torch")
    install: ClassVar[str] = "fastserve-core[engines]"
    engine: ClassVar[str] = "openvino"
    about: ClassVar[Mapping[str, Any]] = {}
    tolerance: ClassVar[float] = 0.02  # OpenVINO computes in bf16 where the processor has units for it

    def write(self, module: nn.Module, folder: Path, change: Change = lambda _: None) -> None:
        """Write a graph made of ``self.module``, or that module itself, with a change.

        Raises ``ExportError`` with the reason.
        """
        with (
            suppress_library_output(),
            hide_package("openvino_telemetry"),
            torch.no_grad(),
            single_line_error("converted"),
        ):
            graph = self._graph(module)
            self._check(graph)
            change(graph)
            write_graph(graph, folder, self.halved)

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        """OpenVINO's own answer, as the engine has it."""
        from fastserve_engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(folder, threads)

    def _graph(self, module: nn.Module) -> openvino.Model:
        from openvino._offline_transformations import compress_quantize_weights_transformation

        graph = convert_model(module, *self.example())
        # Without this the file of a quantized graph holds fp32 weights and a FakeQuantize for each.
        compress_quantize_weights_transformation(graph)
        for port, name in zip(graph.outputs, self.outputs, strict=True):
            port.get_tensor().set_names({name})
        return graph

    def _check(self, graph: openvino.Model) -> None:
        """Refuse a graph with other inputs, and one that would serve one shape only."""
        found = {port.get_any_name() for port in graph.inputs}
        if found != set(self.inputs):
            raise ExportError(f"expected the inputs {', '.join(self.inputs)}, found {', '.join(sorted(found))}")
        for port in graph.inputs:
            if not all(size.is_dynamic for size in port.get_partial_shape()):
                raise ExportError(f"input {port.get_any_name()} is fixed to the shape {port.get_partial_shape()}")


def convert_model(module: nn.Module, example: tuple[Any, ...], shapes: tuple[Any, ...]) -> openvino.Model:
    """The graph of a module, traced with an example.

    These are the steps of ``openvino.convert_model``, less its telemetry: that would run here whenever somebody else
    imported openvino before us.
    """
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    program = torch.export.export(module, example, dynamic_shapes=shapes)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchFXPythonDecoder.from_exported_program(program)  # must outlive the conversion: C++ calls into it
    graph: openvino.Model = frontend.convert(frontend.load(decoder))
    apply_moc_transformations(graph, cf=False, smart_reshape=True)
    return graph


def write_graph(graph: openvino.Model, folder: Path, halved: bool = False) -> None:
    """Write a graph whose nodes are named by their place; inputs keep their names."""
    import openvino

    # The frontend numbers its nodes with a counter of the whole process: name them by place, so that equal
    # models give equal bytes.
    graph.set_friendly_name("fastserve")
    for number, node in enumerate(graph.get_ordered_ops()):
        if node.get_type_name() != "Parameter":  # an input's name is its interface
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, folder / MODEL, compress_to_fp16=halved)
