"""From a torch model to ``model.tflite`` for LiteRT (TensorFlow Lite): one row of a fixed length, padded and masked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fastserve_core.export import FormatReader, single_line_error
from fastserve_core.processes import suppress_library_output
from fastserve_core.tasks import Arrays
from fastserve_engines.exportable import TracedModel

MODEL = "model.tflite"
LENGTH = 128


class LiteRTExport(TracedModel):
    """How a model becomes ``model.tflite``: inputs int32 (1, length), outputs fp32 logits."""

    requires: ClassVar[tuple[str, ...]] = ("ai_edge_litert", "litert_torch", "torch")
    install: ClassVar[str] = "litert-torch"  # no extra: it wants older packages than ours, so an environment of its own
    engine: ClassVar[str] = ""
    about: ClassVar[Mapping[str, Any]] = {"signature": "serving_default"}
    tolerance: ClassVar[float] = 1e-3

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.longest = min(self.longest, LENGTH)
        self.shape = (1, self.longest)

    def write(self, module: nn.Module, folder: Path) -> None:
        import litert_torch

        example = {name: torch.ones(1, self.longest, dtype=torch.int32) for name in self.inputs}
        with suppress_library_output(), torch.no_grad(), single_line_error("converted to LiteRT"):
            made = litert_torch.convert(NamedInputs(module, self.outputs).eval(), sample_kwargs=example)
            folder.mkdir(parents=True, exist_ok=True)
            made.export(str(folder / MODEL))

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        return LiteRTFile(folder, threads)


class NamedInputs(nn.Module):
    """Inputs and outputs by name, which become those of the file's signature."""

    def __init__(self, module: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.outputs = module, outputs

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        types = () if token_type_ids is None else (token_type_ids.long(),)
        return dict(zip(self.outputs, self.module(input_ids.long(), attention_mask.long(), *types), strict=True))


class LiteRTFile:
    """``model.tflite`` in LiteRT's interpreter; rows go through one by one, padded to the file's length."""

    def __init__(self, folder: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(folder / MODEL), num_threads=threads)
        self._run = interpreter.get_signature_runner("serving_default")
        self._takes = self._run.get_input_details()
        self.inputs = tuple(self._takes)

    def run(self, inputs: Arrays) -> Arrays:
        batch, length = inputs["input_ids"].shape
        answers = [self._run(**{name: self._row(inputs[name], row) for name in self._takes}) for row in range(batch)]
        whole = {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}
        return {name: one[:, :length] if one.ndim == 3 else one for name, one in whole.items()}

    def _row(self, array: np.ndarray[Any, Any], row: int) -> np.ndarray[Any, Any]:
        longest = int(self._takes["input_ids"]["shape"][1])
        one = array[row : row + 1].astype(np.int32)
        return np.pad(one, ((0, 0), (0, longest - one.shape[1])))
