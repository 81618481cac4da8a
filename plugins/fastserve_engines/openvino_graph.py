"""Export to OpenVINO's files through torch.export, with dynamic batch and length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from fastserve_core.errors import ExportError
from fastserve_core.export import FormatReader, fixed_shape_message, wrap_export_errors
from fastserve_core.processes import hide_package, suppress_library_output
from fastserve_engines.exportable import TracedModel

if TYPE_CHECKING:
    import openvino

    GraphTransformation = Callable[[openvino.Model], None]

MODEL_FILE = "openvino_model.xml"


@contextmanager
def converting() -> Iterator[None]:
    """Convert quietly, without gradients and telemetry, and report a failure as ``ExportError``."""
    with (
        suppress_library_output(),
        hide_package("openvino_telemetry"),
        torch.no_grad(),
        wrap_export_errors("converted"),
    ):
        yield


class OpenVINOExport(TracedModel):
    """Export to ``openvino_model.xml`` and ``.bin``.

    A model with 16-bit weights is stored with fp16 constants, which represent bf16 weights of usual magnitude exactly.
    """

    requires: ClassVar[tuple[str, ...]] = ("openvino", "torch")
    install: ClassVar[str] = "fastserve-core[engines]"
    engine: ClassVar[str] = "openvino"
    about: ClassVar[Mapping[str, Any]] = {}
    tolerance: ClassVar[float] = 1e-3

    def write(self, module: nn.Module, folder: Path, change: GraphTransformation = lambda _: None) -> None:
        """Write the graph of a module.

        Args:
            module: ``self.module``, or a module made of it with the same interface.
            folder: Folder to write.
            change: Transformation of the graph before it is written.

        Raises:
            ExportError: The module cannot be converted.
        """
        with converting():
            graph = self._convert(module)
            self._check_inputs(graph)
            change(graph)
            write_graph(graph, folder, self.has_16bit_weights)

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        """Load the files with the OpenVINO engine, in fp32.

        In bf16, the difference is that of the processor's rounding, whose maximum grows with the number of outputs.
        """
        from fastserve_engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(folder, threads, in_fp32=True)

    def _convert(self, module: nn.Module) -> openvino.Model:
        from openvino._offline_transformations import compress_quantize_weights_transformation

        graph = convert_model(module, *self.example())
        # otherwise the file of a quantized graph holds fp32 weights, each with a FakeQuantize
        compress_quantize_weights_transformation(graph)
        for port, name in zip(graph.outputs, self.outputs, strict=True):
            port.get_tensor().set_names({name})
        return graph

    def _check_inputs(self, graph: openvino.Model) -> None:
        """Raise ``ExportError`` for a graph with other inputs or with static shapes."""
        names = {port.get_any_name() for port in graph.inputs}
        if names != set(self.inputs):
            raise ExportError(f"expected the inputs {', '.join(self.inputs)}, found {', '.join(sorted(names))}")
        for port in graph.inputs:
            if not all(size.is_dynamic for size in port.get_partial_shape()):
                raise ExportError(fixed_shape_message(port.get_any_name(), port.get_partial_shape()))


def convert_model(module: nn.Module, example: tuple[Any, ...], shapes: tuple[Any, ...]) -> openvino.Model:
    """Trace a module and convert it to a graph.

    The steps are those of ``openvino.convert_model`` without its telemetry, which would run if openvino was imported
    before FastServe.

    Args:
        module: Module to trace.
        example: Positional inputs.
        shapes: Dynamic dimensions of each input, for ``torch.export``.
    """
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    program = torch.export.export(module, example, dynamic_shapes=shapes)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchFXPythonDecoder.from_exported_program(
        program
    )  # must outlive the conversion, because C++ calls into it
    graph: openvino.Model = frontend.convert(frontend.load(decoder))
    apply_moc_transformations(graph, cf=False, smart_reshape=True)
    return graph


def write_graph(graph: openvino.Model, folder: Path, store_fp16: bool = False, name: str = MODEL_FILE) -> None:
    """Write a graph, with nodes named by their position; inputs keep their names.

    Args:
        graph: Graph to write; its nodes are renamed.
        folder: Folder to write.
        store_fp16: Store fp32 constants in fp16.
        name: Name of the file.
    """
    import openvino

    # The frontend numbers nodes with a process-wide counter. Numbering them by position makes the bytes reproducible.
    graph.set_friendly_name("fastserve")
    for index, node in enumerate(graph.get_ordered_ops()):
        if node.get_type_name() != "Parameter":  # an input's name is its interface
            node.set_friendly_name(f"{node.get_type_name()}_{index}")
    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, folder / name, compress_to_fp16=store_fp16)
