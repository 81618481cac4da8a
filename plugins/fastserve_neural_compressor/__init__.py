"""Quantizes with Intel Neural Compressor, and lowers the result to OpenVINO, where it runs at integer speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastserve_core import hookimpl
from fastserve_core.artifact import ENGINE, TRAINABLE
from fastserve_core.errors import BadOption
from fastserve_core.run import Draft, Run

EMBEDDINGS = ("int8", "fp32")


@dataclass
class QuantizeOptions:
    """``calibration_rows`` of the training split decide the ranges of the activations.

    ``embeddings`` int8 stores each row of an embedding table as bytes with a scale of its own.
    """

    calibration_rows: int = 128
    embeddings: str = "int8"

    def __post_init__(self) -> None:
        if self.embeddings not in EMBEDDINGS:
            raise BadOption(
                f"compress.neural_compressor.embeddings must be one of {', '.join(EMBEDDINGS)}, not '{self.embeddings}'"
            )
        if self.calibration_rows < 1:
            raise BadOption(
                f"compress.neural_compressor.calibration_rows must be at least 1, not {self.calibration_rows}"
            )


class NeuralCompressor:
    """The compressor: static INT8."""

    api_version: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("neural_compressor", "torch", "transformers", "openvino")
    tasks: ClassVar[tuple[str, ...]] = ("text_classification", "token_classification")
    form: ClassVar[tuple[str, str]] = (TRAINABLE, ENGINE)
    Options = QuantizeOptions

    def __init__(self, options: QuantizeOptions) -> None:
        self.options = options

    @hookimpl
    def compress(self, run: Run) -> Draft:
        from fastserve_core.children import call

        draft = run.fresh_folder()
        request = {
            "model": run.model.folder,
            "data": run.data.folder,
            "task": [run.task.name, vars(run.task.options), list(run.labels)],
            "draft": draft,
            "rows": self.options.calibration_rows,
            "embeddings": self.options.embeddings,
            "seed": run.seed,
        }
        call("fastserve_neural_compressor.lower", request, run.threads, run.emit)
        return Draft(draft, engine="openvino", form=ENGINE)
