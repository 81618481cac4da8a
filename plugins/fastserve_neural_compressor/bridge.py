"""From an fp32 encoder to int8 OpenVINO files: neural-compressor calibrates, torch.export carries the graph over."""

from __future__ import annotations

import copy
import logging
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from fastserve_core.quiet import without_package

if TYPE_CHECKING:
    import openvino
    from numpy.typing import NDArray

    Batch = dict[str, NDArray[Any]]

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
LARGE_EMBEDDING_BYTES = 1 << 20
"""Tables below this size stay in fp32: they weigh little and position tables are the more sensitive ones."""
MAX_BATCH = 4096
"""An upper bound for torch.export alone; the OpenVINO graph has a free batch dimension."""


class UnsupportedModel(Exception):
    """The model cannot be exported, quantized or converted; the message is one line."""


class Int8Embedding(torch.nn.Module):
    """An embedding kept as int8 rows, each with its own fp32 scale."""

    rows: torch.Tensor
    scales: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        # A row of zeros (often the padding token's) must not divide by zero.
        scales = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
        self.register_buffer("rows", (weight / scales).round().to(torch.int8))
        self.register_buffer("scales", scales)

    @property
    def weight(self) -> torch.Tensor:
        """The whole table in fp32, for models that read it besides looking up in it (DeBERTa)."""
        return self.rows.to(self.scales.dtype) * self.scales

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Gather first, then dequantize: only the rows in use are ever fp32."""
        return functional.embedding(ids, self.rows).to(self.scales.dtype) * functional.embedding(ids, self.scales)


class _Logits(torch.nn.Module):
    """Positional named inputs to one bare tensor, which is what torch.export likes."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        given = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **given).logits
        return logits


def quantize_static(
    model: torch.nn.Module, calibration: list[Batch], folder: Path, *, embeddings: str = "int8"
) -> None:
    """Write `openvino_model.xml` and `.bin` into `folder`: int8 linear layers, and int8 tables if `embeddings` says so.

    `model` is a transformers sequence or token classifier in fp32; it is copied, not changed. `calibration` holds
    batches of int64 arrays `[batch, length]` named `input_ids`, `attention_mask` and, where the model wants it,
    `token_type_ids`; about a hundred texts are enough. The output is `logits`; batch and length are free.
    Raises `UnsupportedModel` with the reason where the architecture does not go through.
    """
    if embeddings not in ("int8", "fp32"):
        raise ValueError(f"embeddings must be 'int8' or 'fp32', not {embeddings!r}")
    names = _input_names(calibration)
    with _quiet(), without_package("openvino_telemetry"), torch.no_grad():
        twin = copy.deepcopy(model).cpu().eval()
        limit = _max_length(twin)
        if (longest := max(batch["input_ids"].shape[1] for batch in calibration)) > limit:
            raise ValueError(f"a calibration text has {longest} tokens, the model takes {limit}")
        if embeddings == "int8":
            _shrink_embeddings(twin)
        with _one_line("quantized"):
            quantized = _calibrate(_Logits(twin), calibration, names, limit)
        with _one_line("converted"):
            graph = _to_openvino(quantized, names, limit)
        _check(graph, names)
        _write(graph, folder)


def _input_names(calibration: list[Batch]) -> list[str]:
    """The inputs in the order of `forward`; every batch must have the same ones."""
    if not calibration:
        raise ValueError("calibration is empty: static quantization needs at least one batch")
    found = set(calibration[0])
    if not {"input_ids", "attention_mask"} <= found <= set(INPUT_NAMES) or any(set(b) != found for b in calibration):
        raise ValueError(f"every calibration batch must name input_ids, attention_mask [, token_type_ids]: {found}")
    return [name for name in INPUT_NAMES if name in found]


def _max_length(model: torch.nn.Module) -> int:
    """The longest input the position table can serve; 512 for a model without one."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # RoBERTa counts positions from padding_idx + 1, so its first rows are never used.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return int(getattr(getattr(model, "config", None), "max_position_embeddings", 512))


def _shrink_embeddings(model: torch.nn.Module) -> None:
    for name, module in list(model.named_modules()):
        # Subclasses scale or clip what they look up: leave them alone.
        if type(module) is torch.nn.Embedding and module.weight.nbytes > LARGE_EMBEDDING_BYTES:
            model.set_submodule(name, Int8Embedding(module.weight.detach()))


def _example(names: list[str], limit: int) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...]]:
    """Inputs to trace with, and which of their dimensions stay free."""
    batch, length = torch.export.Dim("batch", min=1, max=MAX_BATCH), torch.export.Dim("length", min=1, max=limit)
    # No dimension of the example may be 0 or 1: torch.export takes those for constants. And each input needs a
    # tensor of its own: of one that is passed twice it makes one input, without a word.
    example = tuple(torch.ones(2, min(16, limit), dtype=torch.long) for _ in names)
    return example, tuple({0: batch, 1: length} for _ in names)


def _calibrate(model: torch.nn.Module, calibration: list[Batch], names: list[str], limit: int) -> torch.nn.Module:
    """The model's graph with quantize-dequantize pairs round every linear layer."""
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import INT8StaticQuantConfig, convert, prepare

    example, shapes = _example(names, limit)
    try:
        exported = export(model, example, shapes)
    except RuntimeError:
        # It only logs why, and the log is silenced: ask torch for the reason.
        torch.export.export(model, example, dynamic_shapes=shapes, strict=False)
        raise
    prepared = prepare(exported, INT8StaticQuantConfig(), example_inputs=example)
    for batch in calibration:
        prepared(*(torch.from_numpy(batch[name]).long() for name in names))
    quantized: torch.nn.Module = convert(prepared)
    _spare_a_bit(quantized)
    return quantized


def _spare_a_bit(quantized: torch.nn.Module) -> None:
    """Have the linear layers' weights use 7 of their 8 bits.

    Processors without VNNI add pairs of products in 16 bits: 2 x 255 x 127 does not fit and is cut off, silently,
    2 x 255 x 64 does. The file must answer alike wherever it is taken.
    """
    graph: Any = quantized.graph
    found = (node for node in graph.nodes if "quantized_decomposed.quantize_per_channel" in str(node.target))
    for scale in {node.args[1].target for node in found}:
        quantized.get_buffer(scale).mul_(2)


def _to_openvino(quantized: torch.nn.Module, names: list[str], limit: int) -> openvino.Model:
    """The same graph in OpenVINO, weights stored as int8.

    These are the steps of `openvino.convert_model`, less its telemetry: that would run here whenever somebody
    else imported openvino before us.
    """
    from openvino._offline_transformations import apply_moc_transformations, compress_quantize_weights_transformation
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    example, shapes = _example(names, limit)
    program = torch.export.export(quantized, example, dynamic_shapes=shapes)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchFXPythonDecoder.from_exported_program(program)  # must outlive the conversion: C++ calls into it
    graph: openvino.Model = frontend.convert(frontend.load(decoder))
    apply_moc_transformations(graph, cf=False, smart_reshape=True)
    # Without this the file holds fp32 weights and a FakeQuantize for each.
    compress_quantize_weights_transformation(graph)
    if len(graph.outputs) == 1:
        graph.output(0).get_tensor().set_names({"logits"})
    return graph


def _check(graph: openvino.Model, names: list[str]) -> None:
    """Refuse a graph that would only look quantized or serve one shape."""
    found = {port.get_any_name() for port in graph.inputs}
    if found != set(names) or len(graph.outputs) != 1:
        raise UnsupportedModel(f"expected inputs {names} and one output, found {sorted(found)}, {len(graph.outputs)}")
    for port in graph.inputs:
        if not all(size.is_dynamic for size in port.get_partial_shape()):
            raise UnsupportedModel(f"input {port.get_any_name()} is fixed to the shape {port.get_partial_shape()}")
    if not any(op.get_type_name() == "FakeQuantize" for op in graph.get_ops()):
        raise UnsupportedModel("the model has no linear layer that could be quantized")


def _write(graph: openvino.Model, folder: Path) -> None:
    import openvino

    # The frontend numbers its nodes with a counter of the whole process: name them by place, so that equal
    # models give equal bytes.
    graph.set_friendly_name("fastserve_int8")
    for number, node in enumerate(graph.get_ordered_ops()):
        if node.get_type_name() != "Parameter":  # an input's name is its interface
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, folder / "openvino_model.xml", compress_to_fp16=False)


@contextmanager
def _one_line(step: str) -> Iterator[None]:
    """Whatever the libraries raise (each has its own dozen) becomes `UnsupportedModel`."""
    try:
        yield
    except Exception as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 300)
        raise UnsupportedModel(f"the model cannot be {step}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No log line and no warning. Loggers are made and levelled during the imports, so all logging is held back."""
    root, level = logging.getLogger(), logging.root.manager.disable
    handlers = root.handlers[:]
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        # OpenVINO's decoder logs through the root logger, which installs a console handler for good.
        root.handlers[:] = handlers
