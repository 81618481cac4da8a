"""OpenVINO engine: run the files of a compressor, or those that a trainable model is lowered to."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastserve_core.artifacts import max_positions, read_config
from fastserve_core.errors import ArtifactError, PlanError
from fastserve_core.inference import Engine
from fastserve_core.processes import hide_package, read_processor
from fastserve_core.tasks import DEFAULT_OUTPUTS, Arrays, DecodeEngine
from fastserve_engines.causal_engine import FP32_CONFIG, INPUT_NAMES, CausalRunner, is_causal
from fastserve_engines.lora import ENCODER_DECODER, refuse_adapters
from fastserve_engines.seq2seq_engine import ENCODER_FILE, Seq2SeqRunner

MODEL_FILE = "openvino_model.xml"
ENCODER_CONFIG = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "128"}
"""Group size of dynamic quantization in layers with integer weights. Measured for MiniLM, 32 texts of 32 tokens: 38 ms
with 128, 47 ms with OpenVINO's default 32."""
BF16_CONFIG = {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16"}

LENGTH_MULTIPLE = 4
"""Lengths are rounded up to a multiple, because OpenVINO never frees the memory of a shape. Measured for MiniLM over
1,500 passes of random shapes: 380 MB, and 120 MB with rounding, mostly in the first 300, for 2 % more time."""


class OpenVINOEngine(Engine):
    """Engine of ``openvino_model.xml`` and ``.bin``.

    A single input is computed with all threads, for the lowest latency; of many batches, each thread computes its own,
    which is 5 to 15 % faster for MiniLM on two cores. On processors with bf16 units, OpenVINO computes unquantized
    operators in bf16. There, and without 8-bit units, integer weights become floats when they are loaded. A folder of
    Hugging Face weights is lowered on first use and cached in the store.
    """

    requires: ClassVar[tuple[str, ...]] = ("openvino",)
    takes_weights: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    decodes: ClassVar[bool] = True
    takes_adapters: ClassVar[bool] = True

    def __init__(
        self, folder: Path, threads: int, outputs: Sequence[str] = DEFAULT_OUTPUTS, in_fp32: bool = False
    ) -> None:
        """Load and compile the graph.

        Args:
            folder: Folder of the model.
            threads: Number of threads.
            outputs: Patterns of the names of the outputs of a file that is lowered from weights.
            in_fp32: Whether unquantized operators are computed in fp32 on any processor.

        Raises:
            ArtifactError: The folder has neither ``openvino_model.xml`` nor weights.
        """
        with hide_package("openvino_telemetry"):
            import openvino

        self._core = openvino.Core()
        files = _find_files(folder, threads, outputs)
        self._graph = self._core.read_model(files / MODEL_FILE)
        causal = is_causal(self._graph)
        processor = read_processor()
        if processor.may_prefer_floats and not (causal or _quantizes_inputs(self._graph)):
            _fold_weights(self._graph)
        has_encoder = (files / ENCODER_FILE).is_file()
        self._config = {"INFERENCE_NUM_THREADS": threads} | _choose_precision(self._graph, has_encoder, in_fp32)
        self._threads, self._model = threads, self._compile("LATENCY", streams=1)
        self._causal = self._make_runner(files, folder) if causal else None
        self._request = self._model.create_infer_request()
        names = tuple(port.get_any_name() for port in self._model.inputs)
        self.inputs = names if self._causal is None else tuple(name for name in names if name in INPUT_NAMES)
        self._output_names = [port.get_any_name() for port in self._model.outputs]
        self._length_outputs = {
            port.get_any_name() for port in self._model.outputs if _has_length_dimension(port.partial_shape)
        }
        config = read_config(folder) if (folder / "config.json").is_file() else {}
        reads_last_position = config.get("summary_type") == "last"  # XLNet
        self._max_length = 0 if reads_last_position else max_positions(folder) or math.inf
        self._pad_token_id = max(0, config.get("pad_token_id") or 0)
        self._requests: list[Any] = []

    def _make_runner(self, files: Path, folder: Path) -> CausalRunner | Seq2SeqRunner:
        if not (files / ENCODER_FILE).is_file():
            return CausalRunner(self._model, folder)
        encoder = self._compile("LATENCY", 1, self._core.read_model(files / ENCODER_FILE))
        return Seq2SeqRunner(encoder, self._model, folder)

    def _compile(self, hint: str, streams: int, graph: Any = None) -> Any:
        # with pinning, all workers of a server place their threads on the first core
        config = {**self._config, "ENABLE_CPU_PINNING": False, "PERFORMANCE_HINT": hint, "NUM_STREAMS": streams}
        return self._core.compile_model(graph or self._graph, "CPU", config)

    def run(self, inputs: Arrays) -> Arrays:
        """Run one pass.

        Args:
            inputs: Integer arrays of shape (batch, length), padded on the right.

        Returns:
            Outputs by name.
        """
        if self._causal:
            return self._causal.run(inputs)
        return self._copy_outputs(self._request.infer(self._prepare_inputs(inputs)), _get_length(inputs))

    def run_all(self, batches: Iterable[Arrays]) -> Iterator[Arrays]:
        """Run one pass per batch, as many at a time as there are threads, and yield the outputs in order."""
        if self._threads == 1 or self._causal:
            yield from map(self.run, batches)
            return
        if not self._requests:
            model = self._compile("THROUGHPUT", streams=self._threads)
            self._requests = [model.create_infer_request() for _ in range(self._threads + 1)]  # one is always queued
        free, running = deque(self._requests), deque[tuple[Any, int]]()
        try:
            for inputs in batches:
                if not free:
                    yield self._collect_output(running, free)
                request = free.popleft()
                request.start_async(self._prepare_inputs(inputs))
                running.append((request, _get_length(inputs)))
            while running:
                yield self._collect_output(running, free)
        finally:  # the consumer may have closed the generator
            for request, _ in running:
                request.wait()

    def _collect_output(self, running: deque[tuple[Any, int]], free: deque[Any]) -> Arrays:
        request, length = running.popleft()
        request.wait()
        free.append(request)
        return self._copy_outputs(request.results, length)

    def _prepare_inputs(self, inputs: Arrays) -> Arrays:
        feed = {name: array for name, array in inputs.items() if name in self.inputs}
        for name in self.inputs:
            if name not in feed:  # token types default to 0, as in transformers
                feed[name] = np.zeros_like(inputs["input_ids"])
        padding = -_get_length(inputs) % LENGTH_MULTIPLE
        if padding and "attention_mask" in feed and _get_length(inputs) + padding <= self._max_length:
            values = {"input_ids": self._pad_token_id}
            feed = {
                name: np.pad(array, ((0, 0), (0, padding)), constant_values=values.get(name, 0))
                for name, array in feed.items()
            }
        return feed

    def _copy_outputs(self, results: Any, length: int) -> Arrays:
        """Copy the results, because the request reuses their memory, and remove the padding."""
        outputs = {name: np.array(results[index]) for index, name in enumerate(self._output_names)}
        return {name: array[:, :length] if name in self._length_outputs else array for name, array in outputs.items()}

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        """Continue each row of ``input_ids``, or answer it if the model is an encoder with a decoder.

        Args:
            inputs: Integer arrays of shape (batch, length), left-padded for a decoder.
            options: ``max_new_tokens``, and optionally others of the task.

        Returns:
            ``ids`` of the new tokens, of shape (batch, new tokens).

        Raises:
            PlanError: The model has no decoder.
        """
        if not self._causal:
            raise PlanError("the model has no decoder and cannot generate text")
        return self._causal.generate(inputs, options)

    @staticmethod
    def make_decoder(
        folder: Path, threads: int, memory: int, adapters: Mapping[str, Path] | None = None
    ) -> DecodeEngine:
        """Create a decode engine with paged attention.

        Args:
            folder: Folder of the model.
            threads: Number of threads.
            memory: Bytes for keys and values.
            adapters: Folders of adapters by name, for a decoder with its weights.

        Raises:
            PlanError: There are adapters, and the model does not take them.
        """
        files = _find_files(folder, threads, DEFAULT_OUTPUTS)
        if files == folder:
            refuse_adapters(folder, adapters, "is compressed for OpenVINO; serve the model before its compression")
        if (files / ENCODER_FILE).is_file():
            with hide_package("openvino_telemetry"):
                import openvino
            from fastserve_engines.seq2seq_decode import OpenVINOAnswerEngine

            refuse_adapters(folder, adapters, ENCODER_DECODER)
            precision = _choose_precision(openvino.Core().read_model(files / MODEL_FILE), has_encoder=True)
            return OpenVINOAnswerEngine(files, folder, {**precision, "INFERENCE_NUM_THREADS": threads}, memory)
        from fastserve_engines.paged_attention import PagedDecodeEngine

        return PagedDecodeEngine(files / MODEL_FILE, folder, threads, memory, adapters)

    def close(self) -> None:
        """Release the model."""
        del self._causal, self._request, self._requests, self._model, self._graph


def _choose_precision(graph: Any, has_encoder: bool, in_fp32: bool = False) -> dict[str, str]:
    """Return the configuration of a graph's number formats.

    An encoder with a decoder is computed in the processor's own format, like an encoder: its answers are scored, and
    for two copies of MiniLM bf16 takes 0.6 times as long as fp32.
    """
    processor = read_processor()
    if _has_gated_layers(graph) or (is_causal(graph) and not has_encoder):
        return FP32_CONFIG
    if has_encoder:
        return FP32_CONFIG if in_fp32 or not processor.has_bf16_units else BF16_CONFIG
    config = dict(ENCODER_CONFIG)
    if in_fp32 or (processor.limit and not processor.has_bf16_units):
        config["INFERENCE_PRECISION_HINT"] = "f32"  # with a limit, it would ask oneDNN for bf16 above it
    return config


def _quantizes_inputs(graph: Any) -> bool:
    """Return whether layers compute with integers, which needs integer weights."""
    return any(node.get_type_name() == "FakeQuantize" for node in graph.get_ops())


def _fold_weights(graph: Any) -> None:
    """Compute the floats of weights that are stored as integers once; tables of embeddings keep their integers."""
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(graph)


def _get_length(inputs: Arrays) -> int:
    return int(inputs["input_ids"].shape[1])


def _has_gated_layers(graph: Any) -> bool:
    """Return whether a graph has gated feed-forward layers of two products, as Llama's.

    OpenVINO 2026.4 ends the process with SIGFPE when it fuses them in bf16 for streams of one thread.
    """
    gates = (node for node in graph.get_ordered_ops() if node.get_type_name() in ("Gelu", "Swish"))
    products = (port.get_node() for gate in gates for port in gate.output(0).get_target_inputs())
    return any(
        product.get_type_name() == "Multiply"
        and any(value.get_source_output().get_node().get_type_name() == "MatMul" for value in product.inputs())
        for product in products
    )


def _has_length_dimension(shape: Any) -> bool:
    """Return whether the second dimension is the length of the texts."""
    return bool(shape.rank.get_length() > 1 and shape[1].is_dynamic)


def _find_files(folder: Path, threads: int, outputs: Sequence[str]) -> Path:
    if (folder / MODEL_FILE).is_file():
        return folder
    if not any(folder.glob("*.safetensors")):
        raise ArtifactError(f"{folder} has no {MODEL_FILE} and no weights to convert")
    from fastserve_engines.lowering import get_or_lower

    return get_or_lower(folder, threads, outputs)
