"""Static quantization of an fp32 encoder to int8 OpenVINO files: neural-compressor calibrates, torch.export traces."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fastserve_core.errors import ExportError
from fastserve_core.export import ExportFormat, load_format, wrap_export_errors
from fastserve_core.processes import hide_package, suppress_library_output
from fastserve_core.tasks import DEFAULT_OUTPUTS
from fastserve_neural_compressor.accuracy_tuning import (
    Tuning,
    TuningResult,
    make_config,
    rank_by_sensitivity,
    tune_accuracy,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastserve_neural_compressor.accuracy_tuning import Predict

    Batch = dict[str, NDArray[Any]]

LARGE_EMBEDDING_BYTES = 1 << 19
"""Smaller tables stay in fp32, which costs little. MiniLM's table of 512 positions is larger: 0.6 of 8 MB."""


class Int8Embedding(nn.Module):
    """Embedding table of int8 rows, each with its own fp32 scale."""

    rows: torch.Tensor
    scales: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        """Quantize a table of shape (rows, columns)."""
        super().__init__()
        # avoids a division by zero for rows of zeros, often the padding token's
        scales = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
        self.register_buffer("rows", (weight / scales).round().to(torch.int8))
        self.register_buffer("scales", scales)

    @property
    def weight(self) -> torch.Tensor:
        """Return the whole table in fp32, for models that read it directly (DeBERTa)."""
        return self.rows.to(self.scales.dtype) * self.scales

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return embeddings of shape (..., columns); only the rows in use are dequantized."""
        return functional.embedding(ids, self.rows).to(self.scales.dtype) * functional.embedding(ids, self.scales)


def quantize_static(
    model: nn.Module,
    calibration: list[Batch],
    folder: Path,
    *,
    embeddings: str = "int8",
    tuning: Tuning | None = None,
    uncompressed: Collection[str] = (),
    outputs: Sequence[str] = DEFAULT_OUTPUTS,
) -> TuningResult:
    """Write OpenVINO files with int8 linear layers, and int8 embedding tables if requested.

    Batch and length of the files are dynamic.

    Args:
        model: Sequence or token classifier of transformers in fp32; it is not changed.
        calibration: Batches of int64 arrays (batch, length) named ``input_ids``, ``attention_mask`` and optionally
            ``token_type_ids``; about a hundred texts are enough.
        folder: Folder to write.
        embeddings: Dtype of the embedding tables, ``int8`` or ``fp32``.
        tuning: Criterion by which layers are left in fp32; None quantizes all layers.
        uncompressed: Names of modules that stay as they are.
        outputs: Patterns of the names of the model's outputs.

    Returns:
        The quantized graph and the layers that stay in fp32.

    Raises:
        ExportError: The architecture is not supported.
        ValueError: ``embeddings`` or ``calibration`` is invalid.
    """
    if embeddings not in ("int8", "fp32"):
        raise ValueError(f"embeddings must be 'int8' or 'fp32', not {embeddings!r}")
    with suppress_library_output(), hide_package("openvino_telemetry"), torch.no_grad():
        duplicate = copy.deepcopy(model).cpu().eval()
        # by identity: the export may wrap layers, and their names change
        fp32_modules = {module for name, module in duplicate.named_modules() if name in uncompressed}
        if embeddings == "int8":
            quantize_embeddings(duplicate, uncompressed)
        export = load_format("openvino", duplicate, outputs)
        _check_calibration(calibration, export)
        with wrap_export_errors("quantized"):
            result = _quantize_graph(export, calibration, tuning, fp32_modules)
        _reduce_range(result.graph)
    export.write(result.graph, folder)
    return result


def _check_calibration(calibration: list[Batch], export: ExportFormat) -> None:
    if not calibration:
        raise ValueError("calibration is empty: static quantization needs at least one batch")
    if any(not {"input_ids", "attention_mask"} <= set(batch) for batch in calibration):
        raise ValueError("every calibration batch must have input_ids and attention_mask")
    if (longest := max(batch["input_ids"].shape[1] for batch in calibration)) > export.longest:
        raise ValueError(f"a calibration text has {longest} tokens, but the model supports {export.longest}")


def quantize_embeddings(model: nn.Module, uncompressed: Collection[str] = ()) -> None:
    """Replace the large embedding tables of the model by int8 ones, in place."""
    for name, module in list(model.named_modules()):
        # subclasses may scale or clip their rows, so they stay in fp32
        is_large = type(module) is nn.Embedding and module.weight.nbytes > LARGE_EMBEDDING_BYTES
        if is_large and name not in uncompressed:
            model.set_submodule(name, Int8Embedding(module.weight.detach()))


def _quantize_graph(
    export: ExportFormat, calibration: list[Batch], tuning: Tuning | None, fp32_modules: Set[nn.Module]
) -> TuningResult:
    """Return the model's graph with quantize-dequantize pairs around its linear layers, except for these."""
    from neural_compressor.torch.quantization import convert, prepare

    layers = [(name, layer) for name, layer in export.module.named_modules() if type(layer) is nn.Linear]
    excluded = [name for name, layer in layers if layer in fp32_modules]
    if len(excluded) == len(layers):
        raise ExportError("the model has no linear layer that could be quantized")

    example, _ = export.example()
    batches = [_calibration_inputs(export, batch) for batch in calibration]

    def calibrate(model: Any) -> None:
        for inputs in batches:
            model(*inputs)

    if tuning is None:
        prepared = prepare(_export_graph(export), make_config(excluded), example_inputs=example)
        calibrate(prepared)
        return TuningResult(convert(prepared), (), True)

    def make_predict(graph: nn.Module) -> Predict:
        reduced = copy.deepcopy(graph)
        _reduce_range(reduced, minimum=0)  # the fp32 graph is scored too

        def predict(batch: Batch) -> dict[str, NDArray[Any]]:
            outputs = reduced(*_calibration_inputs(export, batch))
            return {name: output.numpy() for name, output in zip(export.outputs, outputs, strict=True)}

        return predict

    order = [name for name in rank_by_sensitivity(export.module, batches) if name not in excluded]
    return tune_accuracy(_export_graph(export), example, calibrate, make_predict, order, tuning, excluded)


def _export_graph(export: ExportFormat) -> Any:
    from neural_compressor.torch.export import export as capture

    example, shapes = export.example()
    try:
        captured = capture(export.module, example, shapes)
        captured.graph.eliminate_dead_code()  # torchao cannot quantize a layer that no output reads, such as a pooler
        captured.recompile()
        return captured
    except RuntimeError:
        # neural-compressor only logs the cause, and the log is suppressed: torch raises it
        torch.export.export(export.module, example, dynamic_shapes=shapes, strict=False)
        raise


def _calibration_inputs(export: ExportFormat, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Return a batch in the order of the graph's inputs; token types default to 0."""
    arrays = (batch.get(name, np.zeros_like(batch["input_ids"])) for name in export.inputs)
    return tuple(torch.from_numpy(array).long() for array in arrays)


def _reduce_range(quantized: nn.Module, minimum: int = 1) -> None:
    """Restrict the linear layers' weights to 7 of their 8 bits.

    Processors without VNNI add pairs of products in 16 bits: 2 x 255 x 127 saturates silently, 2 x 255 x 64 does not.
    The reduced range gives equal results on all processors.
    """
    graph: Any = quantized.graph
    nodes = [node for node in graph.nodes if "quantized_decomposed.quantize_per_channel" in str(node.target)]
    if len(nodes) < minimum:
        raise ExportError("the model has no linear layer that could be quantized")
    for scale in {node.args[1].target for node in nodes}:
        quantized.get_buffer(scale).mul_(2)
