"""Quantizes with Intel Neural Compressor, and lowers the result to OpenVINO, where it runs at integer speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fastserve_core import hookimpl
from fastserve_core.artifact import ENGINE, TRAINABLE
from fastserve_core.errors import BadOption
from fastserve_core.run import Draft, Run

EMBEDDINGS = ("int8", "fp32")
METHODS = {"static": "encoders", "rtn": "language models"}
BITS = (4, 8)
LANGUAGE = "causal_lm"


@dataclass
class QuantizeOptions:
    """``calibration_rows`` of the training split decide the ranges of the activations.

    ``embeddings`` int8 stores each row of an embedding table as bytes with a scale of its own. ``method`` null is what
    suits the task: static for encoders, rtn for language models, whose weights then have ``bits`` and a scale for each
    ``group_size`` inputs.
    """

    calibration_rows: int = 128
    embeddings: str = "int8"
    method: str | None = None
    bits: int = 8
    group_size: int = 64

    def __post_init__(self) -> None:
        if self.embeddings not in EMBEDDINGS:
            raise BadOption(
                f"compress.neural_compressor.embeddings must be one of {', '.join(EMBEDDINGS)}, not '{self.embeddings}'"
            )
        if self.calibration_rows < 1:
            raise BadOption(
                f"compress.neural_compressor.calibration_rows must be at least 1, not {self.calibration_rows}"
            )
        if self.method is not None and self.method not in METHODS:
            raise BadOption(
                f"compress.neural_compressor.method must be one of {', '.join(METHODS)}, or null, not '{self.method}'"
            )
        if self.bits not in BITS:
            raise BadOption(f"compress.neural_compressor.bits must be 4 or 8, not {self.bits}")
        if self.method == "static" and self.bits != 8:
            raise BadOption("compress.neural_compressor.method=static computes in 8 bits: leave bits=8")
        if self.group_size < 2 or self.group_size % 2:
            raise BadOption(f"compress.neural_compressor.group_size must be even and at least 2, not {self.group_size}")


class NeuralCompressor:
    """The compressor: static INT8 for encoders, integer weights for language models."""

    api_version: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("neural_compressor", "torch", "transformers", "openvino")
    tasks: ClassVar[tuple[str, ...]] = ("text_classification", "token_classification", LANGUAGE)
    form: ClassVar[tuple[str, str]] = (TRAINABLE, ENGINE)
    Options = QuantizeOptions

    def __init__(self, options: QuantizeOptions) -> None:
        self.options = options

    @hookimpl
    def compress(self, run: Run) -> Draft:
        from fastserve_core.children import call

        self._check_method(run.task.name)
        draft = run.fresh_folder()
        if run.task.name == LANGUAGE:
            request: dict[str, Any] = {"model": run.model.folder, "draft": draft}
            request |= {"bits": self.options.bits, "group_size": self.options.group_size}
            call("fastserve_neural_compressor.lower_language", request, run.threads, run.emit)
            return Draft(draft, engine="openvino", form=ENGINE)
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

    def _check_method(self, task: str) -> None:
        """Raise ``BadOption`` for a method of encoders asked for a language model, and the reverse."""
        method, suits = self.options.method, "rtn" if task == LANGUAGE else "static"
        if method not in (None, suits):
            raise BadOption(
                f"compress.neural_compressor.method={method} is for {METHODS[str(method)]}, not for {task}: "
                f"leave it out, or take {suits}"
            )
        if task != LANGUAGE and self.options.bits != 8:
            raise BadOption(
                f"compress.neural_compressor.bits={self.options.bits} is for language models, not for {task}"
            )
