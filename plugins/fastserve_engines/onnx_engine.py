"""The ONNX Runtime engine: a folder's ``model.onnx``, or the one that a trainable model is lowered to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import InvalidArtifact, InvalidPlan, MissingPackage
from fastserve_core.inference import Engine
from fastserve_core.tasks import Arrays

MODEL = "model.onnx"
GENERATED_FILES = ("onnx", "onnxscript", "torch")


class ONNXRuntimeEngine(Engine):
    """Reads ``model.onnx``; one request at a time, in fp32 where the file is.

    A folder of Hugging Face weights is lowered when it is first used, and found in the store from then on.
    """

    requires: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    install: ClassVar[str] = "fastserve-core[onnx]"
    takes_weights: ClassVar[bool] = True

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        path = _files(folder, threads) / MODEL
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the cores meanwhile
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._takes = {one.name: np.dtype(one.type[7:-1]) for one in self._session.get_inputs()}  # "tensor(int64)"
        self.inputs = tuple(self._takes)
        self._gives = [one.name for one in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> Arrays:
        missing = np.zeros_like(inputs["input_ids"])  # token types that a tokenizer does not give, as in transformers
        given = {name: inputs.get(name, missing).astype(kind, copy=False) for name, kind in self._takes.items()}
        return dict(zip(self._gives, self._session.run(self._gives, given), strict=True))

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        raise InvalidPlan("ONNX files answer in one pass and cannot generate text: use the engine torch")

    def close(self) -> None:
        del self._session


def _files(folder: Path, threads: int) -> Path:
    if (folder / MODEL).is_file():
        return folder
    if not any(folder.glob("*.safetensors")):
        raise InvalidArtifact(f"{folder} has no {MODEL} and no weights to make one of")
    if missing := missing_packages(GENERATED_FILES):
        raise MissingPackage(
            f"to make {MODEL} of weights the engine onnxruntime needs {', '.join(missing)}: "
            f"pip install '{ONNXRuntimeEngine.install}'"
        )
    from fastserve_engines.lowering import cached_lowering

    return cached_lowering(folder, threads, "onnx")
