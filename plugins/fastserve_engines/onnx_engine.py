"""ONNX Runtime engine: run a folder's ``model.onnx``, or the file that a trainable model is lowered to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import ArtifactError, MissingPackageError, PlanError
from fastserve_core.inference import Engine
from fastserve_core.tasks import DEFAULT_OUTPUTS, Arrays

MODEL_FILE = "model.onnx"
LOWERING_PACKAGES = ("onnx", "onnxscript", "torch")


class ONNXRuntimeEngine(Engine):
    """Engine of ``model.onnx``, with one request at a time.

    A folder of Hugging Face weights is lowered on first use and cached in the store.
    """

    requires: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    install: ClassVar[str] = "fastserve-core[onnx]"
    takes_weights: ClassVar[bool] = True

    def __init__(self, folder: Path, threads: int, outputs: Sequence[str] = DEFAULT_OUTPUTS) -> None:
        """Load the file.

        Args:
            folder: Folder of the model.
            threads: Number of threads of a request.
            outputs: Patterns of the names of the outputs of a file that is lowered from weights.

        Raises:
            ArtifactError: The folder has neither ``model.onnx`` nor weights.
            MissingPackageError: The packages for lowering are not installed.
        """
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        path = _find_files(folder, threads, outputs) / MODEL_FILE
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to other processes
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input_dtypes = {
            node.name: np.dtype(node.type[7:-1]) for node in self._session.get_inputs()
        }  # "tensor(int64)"
        self.inputs = tuple(self._input_dtypes)
        self._output_names = [node.name for node in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> Arrays:
        """Run one pass.

        Args:
            inputs: Integer arrays of shape (batch, length).

        Returns:
            Outputs by name.
        """
        zeros = np.zeros_like(inputs["input_ids"])  # token types default to 0, as in transformers
        feed = {name: inputs.get(name, zeros).astype(dtype, copy=False) for name, dtype in self._input_dtypes.items()}
        return dict(zip(self._output_names, self._session.run(self._output_names, feed), strict=True))

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        """Raise ``PlanError``, because the engine cannot generate text."""
        raise PlanError("the engine onnxruntime cannot generate text: use the engine torch")

    def close(self) -> None:
        """Release the session."""
        del self._session


def _find_files(folder: Path, threads: int, outputs: Sequence[str]) -> Path:
    if (folder / MODEL_FILE).is_file():
        return folder
    if not any(folder.glob("*.safetensors")):
        raise ArtifactError(f"{folder} has no {MODEL_FILE} and no weights to convert")
    if missing := missing_packages(LOWERING_PACKAGES):
        raise MissingPackageError(
            f"to convert weights to {MODEL_FILE}, the engine onnxruntime needs {', '.join(missing)}: "
            f"pip install '{ONNXRuntimeEngine.install}'"
        )
    from fastserve_engines.lowering import get_or_lower

    return get_or_lower(folder, threads, outputs, "onnx")
