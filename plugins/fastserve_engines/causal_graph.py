"""From a causal language model of transformers to a stateful OpenVINO graph, whose keys and values stay inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from fastserve_core.export import FormatReader, single_line_error
from fastserve_core.processes import hide_package, suppress_library_output
from fastserve_engines.decode_step import DecodeStep, check_family, kv_cache_shape
from fastserve_engines.exportable import fuse_attention, max_length
from fastserve_engines.openvino_graph import convert_model, write_graph
from fastserve_engines.torch_engine import TorchEngine

if TYPE_CHECKING:
    import openvino

INPUTS = ("input_ids", "attention_mask", "position_ids", "beam_idx")
STATE = "past_key_values.{}.{}"


class CausalExport:
    """How a causal language model becomes ``openvino_model.xml`` and ``.bin``.

    Inputs: ``input_ids``, ``attention_mask`` (of all tokens so far), ``position_ids``, int64, and ``beam_idx`` (int32,
    which row of the last pass each row goes on from); output: fp32 ``logits``.
    """

    requires: ClassVar[tuple[str, ...]] = ("openvino", "torch")
    install: ClassVar[str] = "fastserve-core[engines]"
    engine: ClassVar[str] = "openvino"
    about: ClassVar[Mapping[str, Any]] = {"stateful": True}
    tolerance: ClassVar[float] = 0.001
    shape: tuple[str | int, str | int] = ("batch", "length")
    inputs: tuple[str, ...] = INPUTS[:2]
    """What a caller gives: the engine works the others out."""
    outputs: tuple[str, ...] = ("logits",)

    def __init__(self, model: Any) -> None:
        """``model`` is one of transformers', in evaluation mode; raises ``ExportError`` for a kind that cannot go."""
        self.halved = model.dtype in (torch.bfloat16, torch.float16)  # its file then holds fp16 constants
        self.longest = max_length(model)
        fuse_attention(model)
        self.module = DecodeStep(model.float())
        check_family(model)
        self.layers, self.heads, self.width = kv_cache_shape(model)

    def example(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Inputs to trace with, and which of their dimensions stay free, for ``torch.export``."""
        free = torch.export.Dim.AUTO
        batch, length, before = 2, 5, 3
        past = [torch.zeros(batch, self.heads, before, self.width) for _ in range(2 * self.layers)]
        ids, mask = torch.ones(batch, length, dtype=torch.long), torch.ones(batch, before + length, dtype=torch.long)
        places = (torch.arange(length) + before).repeat(batch, 1)
        two = {0: free, 1: free}
        return (ids, mask, places, past), (two, two, two, [{0: free, 2: free} for _ in past])

    def write(self, module: nn.Module, folder: Path, change: Callable[[openvino.Model], None] = lambda _: None) -> None:
        """Write the graph of a module like ``self.module``, with a change; ``ExportError`` gives the reason."""
        with (
            suppress_library_output(),
            hide_package("openvino_telemetry"),
            torch.no_grad(),
            single_line_error("converted"),
        ):
            graph = self.graph(module)
            change(graph)
            write_graph(graph, folder, self.halved)

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        """The engine, which keeps the states."""
        from fastserve_engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(folder, threads)

    @staticmethod
    def reference(folder: Path, threads: int) -> FormatReader:
        """The model as transformers runs it, in fp32."""
        return TorchEngine(folder, threads, exact=True)

    def graph(self, module: nn.Module) -> openvino.Model:
        """The stateful graph, in memory."""
        graph = convert_model(module, *self.example())
        _make_stateful(graph, self.heads, self.width)
        return graph


def _make_stateful(graph: openvino.Model, heads: int, width: int) -> None:
    """Turn the keys and values that go in and out into states, empty at first and reordered by ``beam_idx``."""
    from openvino import PartialShape, Type, opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    for port, name in zip(graph.inputs[:3], INPUTS, strict=False):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        port.get_node().set_partial_shape(PartialShape([-1, -1]))
    graph.outputs[0].get_tensor().set_names({"logits"})
    beam = opset13.parameter(PartialShape([-1]), Type.i32, name=INPUTS[3])
    beam.output(0).get_tensor().set_names({INPUTS[3]})
    graph.add_parameters([beam])
    states: dict[str, str] = {}
    for number, (old, new) in enumerate(zip(graph.inputs[3:-1], graph.outputs[1:], strict=True)):
        name = STATE.format(number // 2, ("key", "value")[number % 2])
        states[name] = f"present.{name}"
        old.get_node().set_partial_shape(PartialShape([-1, heads, -1, width]))
        old.get_tensor().set_names({name})
        new.get_tensor().set_names({states[name]})
        users = list(old.get_target_inputs())
        chosen = opset13.gather(old, beam, opset13.constant(np.int64(0)))
        for user in users:
            user.replace_source_output(chosen.output(0))
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, states)
    _empty_cache_init(graph, heads, width)


def _empty_cache_init(graph: openvino.Model, heads: int, width: int) -> None:
    """Without a first value a state has one row: begin with as many as the input has, and no tokens."""
    from openvino import opset13

    ids = opset13.shape_of(graph.input(INPUTS[0]), output_type="i64")
    batch = opset13.gather(ids, opset13.constant(np.array([0])), opset13.constant(np.int64(0)))
    shape = opset13.concat([batch, opset13.constant(np.array([heads, 0, width]))], axis=0)
    empty = opset13.broadcast(opset13.constant(np.float32(0)), shape)
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty.output(0)])
    graph.validate_nodes_and_infer_types()
