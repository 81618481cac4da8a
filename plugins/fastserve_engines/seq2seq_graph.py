"""Convert an encoder with a decoder to two OpenVINO graphs: the encoder, and the decoder with its KV cache inside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from fastserve_core.errors import ExportError
from fastserve_core.export import FormatReader
from fastserve_core.tasks import DEFAULT_OUTPUTS, Arrays
from fastserve_engines.causal_graph import make_stateful
from fastserve_engines.exportable import find_max_length, fuse_attention
from fastserve_engines.hugging_face import load_model
from fastserve_engines.openvino_graph import convert_model, converting, write_graph
from fastserve_engines.seq2seq_engine import ENCODER_FILE, MASK, SOURCE_NAME, SOURCE_TOKENS
from fastserve_engines.seq2seq_step import AnswerStep, SourceEncoder

if TYPE_CHECKING:
    import openvino


class Seq2SeqExport:
    """Export to ``openvino_encoder.xml`` and the stateful ``openvino_model.xml``.

    The encoder returns the decoder's keys and values of the source, so that no step computes them again.
    """

    requires: ClassVar[tuple[str, ...]] = ("openvino", "torch")
    install: ClassVar[str] = "fastserve-core[engines]"
    engine: ClassVar[str] = "openvino"
    about: ClassVar[Mapping[str, Any]] = {"stateful": True}
    tolerance: ClassVar[float] = 0.001
    shape: tuple[str | int, str | int] = ("batch", "length")
    inputs: tuple[str, ...] = (SOURCE_TOKENS, MASK)
    outputs: tuple[str, ...] = ("logits",)
    """Those of the first token of each answer."""

    def __init__(
        self, model: Any, outputs: Sequence[str] = DEFAULT_OUTPUTS, uncompressed: Collection[str] = ()
    ) -> None:
        """Prepare the model for tracing.

        Args:
            model: Model of transformers in evaluation mode, changed in place.
            outputs: Not read: the output of a step is always ``logits``.
            uncompressed: Not read: no weight is rounded.

        Raises:
            ExportError: The model is not an encoder with a decoder that keeps keys and values.
        """
        if not model.config.is_encoder_decoder or not model.can_generate():
            raise ExportError(f"{type(model).__name__} is no encoder with a decoder that writes texts")
        self.longest = find_max_length(model)
        self.has_16bit_weights = model.dtype in (torch.bfloat16, torch.float16)
        fuse_attention(model.float())
        self.module = AnswerStep(model)
        self._encoder = SourceEncoder(model)
        ids = torch.ones(2, 5, dtype=torch.long)
        with torch.no_grad():
            states = self._encoder(ids, torch.ones_like(ids))
        self.layers, (_, self.heads, _, self.width) = len(states) // 2, states[0].shape

    def write(self, module: nn.Module, folder: Path, change: Callable[[openvino.Model], None] = lambda _: None) -> None:
        """Write both graphs.

        Args:
            module: Module with the interface of ``self.module``; the encoder is that of its model.
            folder: Folder to write.
            change: Transformation of each graph before it is written.

        Raises:
            ExportError: The module cannot be converted.
        """
        with converting():
            encoder, decoder = self._encoder_graph(module.model), self._decoder_graph(module)
            for graph, name in ((encoder, ENCODER_FILE), (decoder, "openvino_model.xml")):
                change(graph)
                write_graph(graph, folder, self.has_16bit_weights, name)

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        """Load the files with the OpenVINO engine, in fp32."""
        from fastserve_engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(folder, threads, in_fp32=True)

    @staticmethod
    def reference(folder: Path, threads: int, outputs: Sequence[str] = DEFAULT_OUTPUTS) -> FormatReader:
        """Load the model with transformers, in fp32."""
        return FirstTokenReader(folder, threads)

    def _encoder_graph(self, model: Any) -> openvino.Model:
        dynamic = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
        ids = torch.ones(2, 5, dtype=torch.long)
        graph = convert_model(SourceEncoder(model), (ids, torch.ones_like(ids)), (dynamic, dynamic))
        _name_inputs(graph, (SOURCE_TOKENS, MASK))
        for number, port in enumerate(graph.outputs):
            port.get_tensor().set_names({_source_name(number)})
        return graph

    def _decoder_graph(self, module: nn.Module) -> openvino.Model:
        from openvino import PartialShape

        auto = torch.export.Dim.AUTO
        batch, length, past_length, source = 2, 3, 4, 5
        states = [torch.zeros(batch, self.heads, past_length, self.width) for _ in range(2 * self.layers)]
        sources = [torch.zeros(batch, self.heads, source, self.width) for _ in states]
        ids = torch.ones(batch, length, dtype=torch.long)
        mask = torch.ones(batch, source, dtype=torch.long)
        sizes = {0: auto, 1: auto}
        keys = [{0: auto, 2: auto} for _ in (*states, *sources)]
        graph = convert_model(module, (ids, mask, [*states, *sources]), (sizes, sizes, keys))
        _name_inputs(graph, (SOURCE_TOKENS, MASK))
        first = 2 + len(states)
        for number, port in enumerate(graph.inputs[first:]):
            port.get_node().set_partial_shape(PartialShape([-1, self.heads, -1, self.width]))
            port.get_tensor().set_names({_source_name(number)})
        make_stateful(graph, range(2, first), self.heads, self.width)
        return graph


class FirstTokenReader:
    """The torch model, of which each pass returns the logits of the first token of the answers."""

    inputs: tuple[str, ...] = (SOURCE_TOKENS, MASK)

    def __init__(self, folder: Path, threads: int) -> None:
        """Load the model of a folder."""
        torch.set_num_threads(threads)
        self._model = load_model(folder).float()

    def run(self, inputs: Arrays) -> Arrays:
        """Return ``logits`` of shape (batch, 1, vocabulary)."""
        tensors = {name: torch.from_numpy(inputs[name]) for name in self.inputs}
        start = torch.full_like(tensors[SOURCE_TOKENS][:, :1], self._model.config.decoder_start_token_id)
        with torch.inference_mode():
            logits: Any = self._model(**tensors, decoder_input_ids=start).logits
        return {"logits": logits.numpy()}


def _name_inputs(graph: openvino.Model, names: Sequence[str]) -> None:
    from openvino import PartialShape

    for port, name in zip(graph.inputs, names, strict=False):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        port.get_node().set_partial_shape(PartialShape([-1, -1]))


def _source_name(number: int) -> str:
    return SOURCE_NAME.format(number // 2, ("key", "value")[number % 2])
