"""The OpenVINO engine: the files that a compressor wrote, or those that a trainable model is lowered to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastserve_core.errors import BadArtifact, BadPlan
from fastserve_core.quiet import without_package
from fastserve_core.task import Arrays
from fastserve_runtime.causal_engine import CONFIG, CausalRunner, is_causal

MODEL = "openvino_model.xml"


class OpenVINOEngine:
    """Reads ``openvino_model.xml`` and ``.bin``; one request at a time, for the least latency.

    Where the processor has bf16 units, OpenVINO computes in bf16 what is not quantized. A folder of Hugging Face
    weights is lowered when it is first used, and found in the store from then on.
    """

    requires: ClassVar[tuple[str, ...]] = ("openvino",)
    takes_weights: ClassVar[bool] = True
    generates: ClassVar[bool] = True

    def __init__(self, folder: Path, threads: int) -> None:
        with without_package("openvino_telemetry"):
            import openvino

        path = _files(folder, threads) / MODEL
        config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        core = openvino.Core()
        graph = core.read_model(path)
        if causal := is_causal(graph):
            config |= CONFIG
        self._model = core.compile_model(graph, "CPU", config)
        self._causal = CausalRunner(self._model, folder) if causal else None
        self._request = self._model.create_infer_request()
        self._takes = {one.get_any_name() for one in self._model.inputs}
        self._gives = [one.get_any_name() for one in self._model.outputs]

    def run(self, inputs: Arrays) -> Arrays:
        if self._causal:
            return self._causal.run(inputs)
        given = {name: array for name, array in inputs.items() if name in self._takes}
        for name in self._takes - given.keys():  # token types that a tokenizer does not give are 0, as in transformers
            given[name] = np.zeros_like(inputs["input_ids"])
        results = self._request.infer(given)
        return {name: results[number] for number, name in enumerate(self._gives)}

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        if not self._causal:
            raise BadPlan("the model answers in one pass and cannot generate text")
        return self._causal.generate(inputs, options)

    def close(self) -> None:
        del self._causal, self._request, self._model


def _files(folder: Path, threads: int) -> Path:
    if (folder / MODEL).is_file():
        return folder
    if not any(folder.glob("*.safetensors")):
        raise BadArtifact(f"{folder} has no {MODEL} and no weights to make one of")
    from fastserve_runtime.lowering import lowered

    return lowered(folder, threads)
