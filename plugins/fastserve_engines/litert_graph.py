"""Export to ``model.tflite`` for LiteRT (TensorFlow Lite): one row of a fixed length, padded and masked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fastserve_core.errors import ExportError
from fastserve_core.export import FormatReader, wrap_export_errors
from fastserve_core.processes import suppress_library_output
from fastserve_core.tasks import DEFAULT_OUTPUTS, Arrays
from fastserve_engines.exportable import TracedModel

MODEL_FILE = "model.tflite"
MAX_LENGTH = 128


class LiteRTExport(TracedModel):
    """Export to ``model.tflite`` with int32 inputs (1, length) and fp32 outputs."""

    requires: ClassVar[tuple[str, ...]] = ("ai_edge_litert", "litert_torch", "torch")
    install: ClassVar[str] = (
        "litert-torch"  # no extra: it needs older packages, so it is installed into a separate environment
    )
    engine: ClassVar[str] = ""
    about: ClassVar[Mapping[str, Any]] = {"signature": "serving_default"}
    tolerance: ClassVar[float] = 1e-3

    def __init__(
        self, model: Any, outputs: Sequence[str] = DEFAULT_OUTPUTS, uncompressed: Collection[str] = ()
    ) -> None:
        super().__init__(model, outputs, uncompressed)
        self.longest = min(self.longest, MAX_LENGTH)
        self.shape = (1, self.longest)

    def write(self, module: nn.Module, folder: Path) -> None:
        """Write the file.

        Args:
            module: Module with the interface of ``self.module``.
            folder: Folder to write.

        Raises:
            ExportError: LiteRT cannot convert the module, or an output has one number for each token.
        """
        self._check_outputs(module)
        import litert_torch

        example = {name: torch.ones(1, self.longest, dtype=torch.int32) for name in self.inputs}
        with suppress_library_output(), torch.no_grad(), wrap_export_errors("converted to LiteRT"):
            converted = litert_torch.convert(NamedModel(module, self.outputs).eval(), sample_kwargs=example)
            folder.mkdir(parents=True, exist_ok=True)
            converted.export(str(folder / MODEL_FILE))

    def _check_outputs(self, module: nn.Module) -> None:
        """Refuse outputs of shape (batch, length): a file of one length gives them all its positions."""
        with torch.no_grad():
            long, short = (
                module(*(torch.ones(1, length, dtype=torch.int64) for _ in self.inputs))
                for length in (self.longest, self.longest - 1)
            )
        for name, first, second in zip(self.outputs, long, short, strict=True):
            if first.dim() == 2 and first.shape != second.shape:
                raise ExportError(
                    f"the model cannot be exported: its output {name} has one number for each token, which a LiteRT "
                    "file of a fixed length does not cut to the length of a text"
                )

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        """Load the file with LiteRT's interpreter."""
        return LiteRTFile(folder, threads)


class NamedModel(nn.Module):
    """Module with named inputs and outputs, which become those of the file's signature."""

    def __init__(self, module: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.outputs = module, outputs

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the outputs by name for int32 inputs of shape (batch, length)."""
        types = () if token_type_ids is None else (token_type_ids.long(),)
        return dict(zip(self.outputs, self.module(input_ids.long(), attention_mask.long(), *types), strict=True))


class LiteRTFile:
    """``model.tflite`` in LiteRT's interpreter."""

    def __init__(self, folder: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(folder / MODEL_FILE), num_threads=threads)
        self._run = interpreter.get_signature_runner("serving_default")
        self._input_details = self._run.get_input_details()
        self.inputs = tuple(self._input_details)

    def run(self, inputs: Arrays) -> Arrays:
        """Run the rows one at a time, padded to the file's length.

        Args:
            inputs: Arrays of shape (batch, length), padded on the right.

        Returns:
            Outputs by name.
        """
        batch, length = inputs["input_ids"].shape
        answers = [
            self._run(**{name: self._pad_row(inputs[name], row) for name in self._input_details})
            for row in range(batch)
        ]
        batched = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
        return {name: array[:, :length] if array.ndim == 3 else array for name, array in batched.items()}

    def _pad_row(self, array: np.ndarray[Any, Any], row: int) -> np.ndarray[Any, Any]:
        longest = int(self._input_details["input_ids"]["shape"][1])
        tokens = array[row : row + 1].astype(np.int32)
        return np.pad(tokens, ((0, 0), (0, longest - tokens.shape[1])))
