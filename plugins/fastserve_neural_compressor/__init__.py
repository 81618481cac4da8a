"""Quantizes with Intel Neural Compressor, and lowers the result to OpenVINO, where it runs at integer speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastserve_core import hookimpl
from fastserve_core.artifacts import COMPILED, TRAINABLE
from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import InvalidOption, MissingPackage
from fastserve_core.plugins import CompressContext, Compressor, StagedArtifact

EMBEDDINGS = ("int8", "fp32")
ENCODER_METHODS, LANGUAGE_METHODS = ("static", "dynamic"), ("rtn", "gptq", "awq", "teq", "autoround")
METHODS = (*ENCODER_METHODS, *LANGUAGE_METHODS)
BITS = (4, 8)
LANGUAGE = "causal_lm"


@dataclass
class QuantizeOptions:
    """``calibration_rows`` of the training split decide the ranges of the activations.

    ``embeddings`` int8 stores each row of an embedding table as bytes with a scale of its own. ``method`` null is what
    suits the task: static for encoders, rtn for language models, whose weights then have ``bits`` and a scale for each
    ``group_size`` inputs. ``tolerable_loss`` has static leave layers in floats until no more than that is lost.
    """

    calibration_rows: int = 128
    embeddings: str = "int8"
    method: str | None = None
    tolerable_loss: float | None = None
    bits: int = 8
    group_size: int = 64

    def __post_init__(self) -> None:
        if self.embeddings not in EMBEDDINGS:
            raise InvalidOption(
                f"compress.neural_compressor.embeddings must be one of {', '.join(EMBEDDINGS)}, not '{self.embeddings}'"
            )
        if self.calibration_rows < 1:
            raise InvalidOption(
                f"compress.neural_compressor.calibration_rows must be at least 1, not {self.calibration_rows}"
            )
        if self.method is not None and self.method not in METHODS:
            raise InvalidOption(
                f"compress.neural_compressor.method must be one of {', '.join(METHODS)}, or null, not '{self.method}'"
            )
        if self.bits not in BITS:
            raise InvalidOption(f"compress.neural_compressor.bits must be 4 or 8, not {self.bits}")
        if self.method in ENCODER_METHODS and self.bits != 8:
            raise InvalidOption(f"compress.neural_compressor.method={self.method} computes in 8 bits: leave bits=8")
        if self.tolerable_loss is not None and not 0 <= self.tolerable_loss < 1:
            raise InvalidOption(
                f"compress.neural_compressor.tolerable_loss is a share below 1, like 0.01, not {self.tolerable_loss}"
            )
        if self.tolerable_loss is not None and self.method not in (None, "static"):
            raise InvalidOption(
                f"compress.neural_compressor.tolerable_loss is for method=static, not for {self.method}"
            )
        if self.group_size < 2 or self.group_size % 2:
            raise InvalidOption(
                f"compress.neural_compressor.group_size must be even and at least 2, not {self.group_size}"
            )


class NeuralCompressor(Compressor):
    """The compressor: 8 bit integers for encoders, integer weights for language models."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("neural_compressor", "torch", "transformers", "openvino")
    tasks: ClassVar[tuple[str, ...]] = ("text_classification", "token_classification", LANGUAGE)
    form: ClassVar[tuple[str, str]] = (TRAINABLE, COMPILED)
    Options = QuantizeOptions

    def __init__(self, options: QuantizeOptions) -> None:
        self.options = options

    def check_task(self, task: str) -> None:
        """Raise ``InvalidOption`` for options of encoders with a language model, and the reverse."""
        options, suit = self.options, LANGUAGE_METHODS if task == LANGUAGE else ENCODER_METHODS
        if options.method not in (None, *suit):
            kind = "encoders" if options.method in ENCODER_METHODS else "language models"
            raise InvalidOption(
                f"compress.neural_compressor.method={options.method} is for {kind}, not for {task}: "
                f"leave it out, or take {' or '.join(suit)}"
            )
        if task != LANGUAGE and options.bits != 8:
            raise InvalidOption(
                f"compress.neural_compressor.bits={options.bits} is for language models, not for {task}"
            )
        if task == LANGUAGE and options.tolerable_loss is not None:
            raise InvalidOption(f"compress.neural_compressor.tolerable_loss is for encoders, not for {task}")
        if options.method == "autoround" and missing_packages(["auto_round"]):
            raise MissingPackage("compress.neural_compressor.method=autoround needs auto-round: pip install auto-round")

    @hookimpl
    def compress(self, run: CompressContext) -> StagedArtifact:
        from fastserve_core.processes import PRELOAD_MODULES, run_in_child

        draft = run.clean_folder()
        request = {
            "model": run.model.folder,
            "data": run.data.folder,
            "task": [run.task.name, vars(run.task.options), list(run.labels)],
            "draft": draft,
            "options": vars(self.options),
            "seed": run.seed,
        }
        run_in_child("fastserve_neural_compressor.worker", request, run.threads, run.emit, PRELOAD_MODULES)
        return StagedArtifact(draft, engine="openvino", form=COMPILED)
