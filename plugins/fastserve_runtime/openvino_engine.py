"""The OpenVINO engine: an IR that a compressor lowered a model to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from fastserve_core.errors import BadArtifact, BadPlan
from fastserve_core.quiet import without_package
from fastserve_core.task import Arrays

MODEL = "openvino_model.xml"


class OpenVINOEngine:
    """Reads ``openvino_model.xml`` and ``.bin``; one request at a time, for the least latency."""

    requires: ClassVar[tuple[str, ...]] = ("openvino",)

    def __init__(self, folder: Path, threads: int) -> None:
        with without_package("openvino_telemetry"):
            import openvino

        path = folder / MODEL
        if not path.is_file():
            raise BadArtifact(f"{folder} has no {MODEL}")
        config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        self._model = openvino.Core().compile_model(str(path), "CPU", config)
        self._request = self._model.create_infer_request()
        self._takes = {one.get_any_name() for one in self._model.inputs}
        self._gives = [one.get_any_name() for one in self._model.outputs]

    def run(self, inputs: Arrays) -> Arrays:
        given = {name: array for name, array in inputs.items() if name in self._takes}
        results = self._request.infer(given)
        return {name: results[number] for number, name in enumerate(self._gives)}

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        raise BadPlan("an OpenVINO file of one pass cannot generate text: serve the artifact it was made from")

    def close(self) -> None:
        del self._request, self._model
