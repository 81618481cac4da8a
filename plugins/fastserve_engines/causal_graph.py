"""Convert a causal language model of transformers to a stateful OpenVINO graph with the KV cache inside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from fastserve_core.export import FormatReader
from fastserve_core.tasks import DEFAULT_OUTPUTS
from fastserve_engines.decode_step import DecodeStep, check_family, get_kv_cache_shape
from fastserve_engines.exportable import find_max_length, fuse_attention
from fastserve_engines.openvino_graph import convert_model, converting, write_graph
from fastserve_engines.torch_engine import TorchEngine

if TYPE_CHECKING:
    import openvino

INPUT_NAMES = ("input_ids", "attention_mask", "position_ids", "beam_idx")
STATE_NAME = "past_key_values.{}.{}"


class CausalExport:
    """Export of a causal language model to ``openvino_model.xml`` and ``.bin``.

    Inputs: int64 ``input_ids``, ``attention_mask`` (of all tokens so far) and ``position_ids``, and int32 ``beam_idx``
    (the row of the last pass that each row continues). Output: fp32 ``logits``.
    """

    requires: ClassVar[tuple[str, ...]] = ("openvino", "torch")
    install: ClassVar[str] = "fastserve-core[engines]"
    engine: ClassVar[str] = "openvino"
    about: ClassVar[Mapping[str, Any]] = {"stateful": True}
    tolerance: ClassVar[float] = 0.001
    shape: tuple[str | int, str | int] = ("batch", "length")
    inputs: tuple[str, ...] = INPUT_NAMES[:2]
    """Inputs that callers pass; the engine computes the others."""
    outputs: tuple[str, ...] = ("logits",)

    def __init__(
        self, model: Any, outputs: Sequence[str] = DEFAULT_OUTPUTS, uncompressed: Collection[str] = ()
    ) -> None:
        """Prepare the model for tracing.

        Args:
            model: Model of transformers in evaluation mode, changed in place.
            outputs: Not read: the output of a step is always ``logits``.
            uncompressed: Not read: no weight is rounded.

        Raises:
            ExportError: The model is not a causal language model with a plain KV cache.
        """
        self.has_16bit_weights = model.dtype in (torch.bfloat16, torch.float16)  # the file then holds fp16 constants
        self.longest = find_max_length(model)
        fuse_attention(model)
        self.module = DecodeStep(model.float())
        check_family(model)
        self.layers, self.heads, self.width = get_kv_cache_shape(model)

    def example(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return inputs to trace with, and their dynamic dimensions for ``torch.export``."""
        dynamic = torch.export.Dim.AUTO
        batch, length, past_length = 2, 5, 3
        past = [torch.zeros(batch, self.heads, past_length, self.width) for _ in range(2 * self.layers)]
        ids, mask = (
            torch.ones(batch, length, dtype=torch.long),
            torch.ones(batch, past_length + length, dtype=torch.long),
        )
        positions = (torch.arange(length) + past_length).repeat(batch, 1)
        batch_and_length = {0: dynamic, 1: dynamic}
        return (ids, mask, positions, past), (
            batch_and_length,
            batch_and_length,
            batch_and_length,
            [{0: dynamic, 2: dynamic} for _ in past],
        )

    def write(self, module: nn.Module, folder: Path, change: Callable[[openvino.Model], None] = lambda _: None) -> None:
        """Write the graph of a module.

        Args:
            module: Module with the interface of ``self.module``.
            folder: Folder to write.
            change: Transformation of the graph before it is written.

        Raises:
            ExportError: The module cannot be converted.
        """
        with converting():
            graph = self.graph(module)
            change(graph)
            write_graph(graph, folder, self.has_16bit_weights)

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        """Load the files with the OpenVINO engine, which keeps the states."""
        from fastserve_engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(folder, threads)

    @staticmethod
    def reference(folder: Path, threads: int, outputs: Sequence[str] = DEFAULT_OUTPUTS) -> FormatReader:
        """Load the model with transformers, in fp32."""
        return TorchEngine(folder, threads, outputs, exact=True)

    def graph(self, module: nn.Module) -> openvino.Model:
        """Return the stateful graph in memory."""
        graph = convert_model(module, *self.example())
        _name_inputs(graph)
        make_stateful(graph, range(3, len(graph.inputs)), self.heads, self.width)
        return graph


def _name_inputs(graph: openvino.Model) -> None:
    """Name the inputs that a runner sets, and let both of their sizes vary."""
    from openvino import PartialShape

    for port, name in zip(graph.inputs[:3], INPUT_NAMES, strict=False):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        port.get_node().set_partial_shape(PartialShape([-1, -1]))


def make_stateful(graph: openvino.Model, states: Sequence[int], heads: int, width: int) -> None:
    """Turn keys and values into states, initially empty and reordered by an added input ``beam_idx``.

    Args:
        graph: Graph with the logits as its first output, and the new states as the others.
        states: Indices of the inputs that hold the states.
        heads: Number of heads.
        width: Width of a head.
    """
    from openvino import PartialShape, Type, opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    graph.outputs[0].get_tensor().set_names({"logits"})
    beam = opset13.parameter(PartialShape([-1]), Type.i32, name=INPUT_NAMES[3])
    beam.output(0).get_tensor().set_names({INPUT_NAMES[3]})
    pairs: dict[str, str] = {}
    inputs = [graph.inputs[number] for number in states]
    graph.add_parameters([beam])
    for index, (old, new) in enumerate(zip(inputs, graph.outputs[1:], strict=True)):
        name = STATE_NAME.format(index // 2, ("key", "value")[index % 2])
        pairs[name] = f"present.{name}"
        old.get_node().set_partial_shape(PartialShape([-1, heads, -1, width]))
        old.get_tensor().set_names({name})
        new.get_tensor().set_names({pairs[name]})
        users = list(old.get_target_inputs())
        reordered = opset13.gather(old, beam, opset13.constant(np.int64(0)))
        for user in users:
            user.replace_source_output(reordered.output(0))
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, pairs)
    _initialize_states(graph, heads, width)


def _initialize_states(graph: openvino.Model, heads: int, width: int) -> None:
    """Initialize the states with the batch size of the input and no tokens; the default is one row."""
    from openvino import opset13

    ids = opset13.shape_of(graph.input(INPUT_NAMES[0]), output_type="i64")
    batch = opset13.gather(ids, opset13.constant(np.array([0])), opset13.constant(np.int64(0)))
    shape = opset13.concat([batch, opset13.constant(np.array([heads, 0, width]))], axis=0)
    empty = opset13.broadcast(opset13.constant(np.float32(0)), shape)
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty.output(0)])
    graph.validate_nodes_and_infer_types()
