"""The OpenVINO engine: the files that a compressor wrote, or those that a trainable model is lowered to."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastserve_core.artifacts import max_positions
from fastserve_core.errors import InvalidArtifact, InvalidPlan
from fastserve_core.inference import Engine
from fastserve_core.processes import hide_package
from fastserve_core.tasks import Arrays, DecodeEngine
from fastserve_engines.causal_engine import CONFIG, INPUT_NAMES, CausalRunner, is_causal

MODEL = "openvino_model.xml"
ENCODER_CONFIG = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "128"}
"""Inputs of layers whose weights alone are integers are rounded so many at a time. Seen for MiniLM: 38 ms for 32
texts of 32 tokens, 47 with OpenVINO's own 32."""

LENGTH_MULTIPLE = 4
"""Lengths are rounded up to a multiple. OpenVINO keeps what it prepared for each shape for ever: seen for MiniLM, 1,500
passes of any shape took 380 MB that way, and rounded 120 MB, nearly all of it in the first 300, for 2 % of the time."""

POSITION_OFFSET = 2
"""Some models count their positions from 2 on, so that they read two tokens fewer than they have positions for."""


class OpenVINOEngine(Engine):
    """Reads ``openvino_model.xml`` and ``.bin``.

    One input is answered with all threads, for the least latency. Of many batches each thread answers its own: seen
    for MiniLM on two cores, 5 to 15 % more of them. Where the processor has bf16 units, OpenVINO computes in bf16
    what is not quantized. A folder of Hugging Face weights is lowered when it is first used, and found in the store
    from then on.
    """

    requires: ClassVar[tuple[str, ...]] = ("openvino",)
    takes_weights: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    decodes: ClassVar[bool] = True

    def __init__(self, folder: Path, threads: int) -> None:
        with hide_package("openvino_telemetry"):
            import openvino

        self._core = openvino.Core()
        self._graph = self._core.read_model(_files(folder, threads) / MODEL)
        causal = is_causal(self._graph)
        self._config = {"INFERENCE_NUM_THREADS": threads} | (CONFIG if causal else ENCODER_CONFIG)
        self._threads, self._model = threads, self._compile("LATENCY", streams=1)
        self._causal = CausalRunner(self._model, folder) if causal else None
        self._request = self._model.create_infer_request()
        names = tuple(one.get_any_name() for one in self._model.inputs)
        self.inputs = names if self._causal is None else tuple(name for name in names if name in INPUT_NAMES)
        self._gives = [one.get_any_name() for one in self._model.outputs]
        self._long = {one.get_any_name() for one in self._model.outputs if _is_dynamic(one.partial_shape)}
        self._most = (max_positions(folder) or math.inf) - POSITION_OFFSET
        self._several: list[Any] = []

    def _compile(self, hint: str, streams: int) -> Any:
        # pinned, the workers of a server all have their threads on the first core
        config = {**self._config, "ENABLE_CPU_PINNING": False, "PERFORMANCE_HINT": hint, "NUM_STREAMS": streams}
        return self._core.compile_model(self._graph, "CPU", config)

    def run(self, inputs: Arrays) -> Arrays:
        if self._causal:
            return self._causal.run(inputs)
        return self._named(self._request.infer(self._model_inputs(inputs)), _length(inputs))

    def run_all(self, batches: Iterable[Arrays]) -> Iterator[Arrays]:
        """One pass for each, as many at a time as there are threads, with the outputs in order."""
        if self._threads == 1 or self._causal:
            yield from map(self.run, batches)
            return
        if not self._several:
            model = self._compile("THROUGHPUT", streams=self._threads)
            self._several = [model.create_infer_request() for _ in range(self._threads + 1)]  # one waits its turn
        free, running = deque(self._several), deque[tuple[Any, int]]()
        try:
            for inputs in batches:
                if not free:
                    yield self._collect_output(running, free)
                request = free.popleft()
                request.start_async(self._model_inputs(inputs))
                running.append((request, _length(inputs)))
            while running:
                yield self._collect_output(running, free)
        finally:  # who asked may have stopped listening
            for request, _ in running:
                request.wait()

    def _collect_output(self, running: deque[tuple[Any, int]], free: deque[Any]) -> Arrays:
        request, length = running.popleft()
        request.wait()
        free.append(request)
        return self._named(request.results, length)

    def _model_inputs(self, inputs: Arrays) -> Arrays:
        given = {name: array for name, array in inputs.items() if name in self.inputs}
        for name in self.inputs:
            if name not in given:  # token types that a tokenizer does not give are 0, as in transformers
                given[name] = np.zeros_like(inputs["input_ids"])
        more = -_length(inputs) % LENGTH_MULTIPLE
        if more and "attention_mask" in given and _length(inputs) + more <= self._most:
            given = {name: np.pad(array, ((0, 0), (0, more))) for name, array in given.items()}
        return given

    def _named(self, results: Any, length: int) -> Arrays:
        """Copies: a request writes its next results where these are. What was padded here is cut again."""
        found = {name: np.array(results[number]) for number, name in enumerate(self._gives)}
        return {name: array[:, :length] if name in self._long else array for name, array in found.items()}

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        if not self._causal:
            raise InvalidPlan("the model answers in one pass and cannot generate text")
        return self._causal.generate(inputs, options)

    @staticmethod
    def make_decoder(folder: Path, threads: int, memory: int) -> DecodeEngine:
        from fastserve_engines.paged_attention import PagedDecodeEngine

        return PagedDecodeEngine(_files(folder, threads) / MODEL, folder, threads, memory)

    def close(self) -> None:
        del self._causal, self._request, self._several, self._model, self._graph


def _length(inputs: Arrays) -> int:
    return int(inputs["input_ids"].shape[1])


def _is_dynamic(shape: Any) -> bool:
    """Whether the second dimension is the length of the texts."""
    return bool(shape.rank.get_length() > 1 and shape[1].is_dynamic)


def _files(folder: Path, threads: int) -> Path:
    if (folder / MODEL).is_file():
        return folder
    if not any(folder.glob("*.safetensors")):
        raise InvalidArtifact(f"{folder} has no {MODEL} and no weights to make one of")
    from fastserve_engines.lowering import cached_lowering

    return cached_lowering(folder, threads)
