"""From an fp32 encoder to int8 OpenVINO files: neural-compressor calibrates, torch.export carries the graph over."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fastserve_core.errors import ExportError
from fastserve_core.export import ExportFormat, load_format, single_line_error
from fastserve_core.processes import hide_package, suppress_library_output
from fastserve_neural_compressor.accuracy_tuning import Tuning, TuningResult, by_sensitivity, tune_accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastserve_neural_compressor.accuracy_tuning import Answers

    Batch = dict[str, NDArray[Any]]

LARGE_EMBEDDING_BYTES = 1 << 19
"""Tables below this size stay in fp32: they weigh little. MiniLM's 512 positions are above it: 0.6 of 8 MB."""


class Int8Embedding(nn.Module):
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


def quantize_static(
    model: nn.Module, calibration: list[Batch], folder: Path, *, embeddings: str = "int8", tuning: Tuning | None = None
) -> TuningResult:
    """Write OpenVINO's files into ``folder``: int8 linear layers, and int8 tables where ``embeddings`` says so.

    ``model`` is a transformers sequence or token classifier in fp32; it is copied, not changed. ``calibration`` holds
    batches of int64 arrays ``[batch, length]`` named ``input_ids``, ``attention_mask`` and, where the model wants it,
    ``token_type_ids``; about a hundred texts are enough. The output is ``logits``; batch and length are free. With
    ``tuning`` some layers may stay in floats. Raises ``ExportError`` with the reason where the architecture does not
    go through.
    """
    if embeddings not in ("int8", "fp32"):
        raise ValueError(f"embeddings must be 'int8' or 'fp32', not {embeddings!r}")
    with suppress_library_output(), hide_package("openvino_telemetry"), torch.no_grad():
        twin = copy.deepcopy(model).cpu().eval()
        if embeddings == "int8":
            quantize_embeddings(twin)
        export = load_format("openvino", twin)
        _check_calibration(calibration, export)
        with single_line_error("quantized"):
            found = _quantized(export, calibration, tuning)
        _reduce_range(found.graph)
    export.write(found.graph, folder)
    return found


def _check_calibration(calibration: list[Batch], export: ExportFormat) -> None:
    if not calibration:
        raise ValueError("calibration is empty: static quantization needs at least one batch")
    if any(not {"input_ids", "attention_mask"} <= set(batch) for batch in calibration):
        raise ValueError("every calibration batch must have input_ids and attention_mask")
    if (longest := max(batch["input_ids"].shape[1] for batch in calibration)) > export.longest:
        raise ValueError(f"a calibration text has {longest} tokens, the model takes {export.longest}")


def quantize_embeddings(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        # Subclasses scale or clip what they look up: leave them alone.
        if type(module) is nn.Embedding and module.weight.nbytes > LARGE_EMBEDDING_BYTES:
            model.set_submodule(name, Int8Embedding(module.weight.detach()))


def _quantized(export: ExportFormat, calibration: list[Batch], tuning: Tuning | None) -> TuningResult:
    """The model's graph with quantize-dequantize pairs round its linear layers."""
    from neural_compressor.torch.quantization import INT8StaticQuantConfig, convert, prepare

    example, _ = export.example()
    batches = [_calibration_inputs(export, batch) for batch in calibration]

    def calibrate(model: Any) -> None:
        for given in batches:
            model(*given)

    if tuning is None:
        prepared = prepare(_export_graph(export), INT8StaticQuantConfig(), example_inputs=example)
        calibrate(prepared)
        return TuningResult(convert(prepared), (), True)

    def answers(graph: nn.Module) -> Answers:
        spared = copy.deepcopy(graph)
        _reduce_range(spared, least=0)  # the float graph is rated too

        def answer(batch: Batch) -> dict[str, NDArray[Any]]:
            found = spared(*_calibration_inputs(export, batch))
            return {name: one.numpy() for name, one in zip(export.outputs, found, strict=True)}

        return answer

    order = by_sensitivity(export.module, batches)
    return tune_accuracy(_export_graph(export), example, calibrate, answers, order, tuning)


def _export_graph(export: ExportFormat) -> Any:
    from neural_compressor.torch.export import export as capture

    example, shapes = export.example()
    try:
        return capture(export.module, example, shapes)
    except RuntimeError:
        # It only logs why, and the log is silenced: ask torch for the reason.
        torch.export.export(export.module, example, dynamic_shapes=shapes, strict=False)
        raise


def _calibration_inputs(export: ExportFormat, batch: Batch) -> tuple[torch.Tensor, ...]:
    """A batch in the order of the graph's inputs; token types that a tokenizer does not give are 0."""
    arrays = (batch.get(name, np.zeros_like(batch["input_ids"])) for name in export.inputs)
    return tuple(torch.from_numpy(one).long() for one in arrays)


def _reduce_range(quantized: nn.Module, least: int = 1) -> None:
    """Have the linear layers' weights use 7 of their 8 bits.

    Processors without VNNI add pairs of products in 16 bits: 2 x 255 x 127 does not fit and is cut off, silently,
    2 x 255 x 64 does. The file must answer alike wherever it is taken.
    """
    graph: Any = quantized.graph
    found = [node for node in graph.nodes if "quantized_decomposed.quantize_per_channel" in str(node.target)]
    if len(found) < least:
        raise ExportError("the model has no linear layer that could be quantized")
    for scale in {node.args[1].target for node in found}:
        quantized.get_buffer(scale).mul_(2)
