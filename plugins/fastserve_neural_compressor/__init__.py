"""Quantize with Intel Neural Compressor and lower the result to OpenVINO, which runs it with integer arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fastserve_core import hookimpl
from fastserve_core.artifacts import COMPILED, TRAINABLE
from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import MissingPackageError, OptionError, PlanError, UserError
from fastserve_core.events import WarningRaised
from fastserve_core.plugins import CompressContext, Compressor, StagedArtifact
from fastserve_core.tasks import Task

EMBEDDING_DTYPES = ("int8", "fp32")
ENCODER_METHODS, LANGUAGE_METHODS = ("static", "dynamic"), ("rtn", "gptq", "awq", "teq", "autoround")
METHODS = (*ENCODER_METHODS, *LANGUAGE_METHODS)
BITS = (4, 8)


@dataclass
class QuantizeOptions:
    """Options of ``compress.neural_compressor``.

    Attributes:
        calibration_rows: Number of training rows for calibration.
        embeddings: Dtype of the embedding tables, ``int8`` (one scale per row) or ``fp32``.
        method: Quantization method; null is rtn for language models, static for encoders on processors with 8-bit
            units, and the best of static and dynamic on others.
        tolerable_loss: With method static, fraction of the score that may be lost: layers are left in fp32 until the
            loss is smaller. Null quantizes all layers.
        bits: Bits of a language model's weights, 4 or 8.
        group_size: Number of weights of a row that share a scale and a zero point, in language models.
    """

    calibration_rows: int = 128
    embeddings: str = "int8"
    method: str | None = None
    tolerable_loss: float | None = None
    bits: int = 8
    group_size: int = 64

    def __post_init__(self) -> None:
        if self.embeddings not in EMBEDDING_DTYPES:
            raise OptionError(
                f"compress.neural_compressor.embeddings must be one of {', '.join(EMBEDDING_DTYPES)}, "
                f"not '{self.embeddings}'"
            )
        if self.calibration_rows < 1:
            raise OptionError(
                f"compress.neural_compressor.calibration_rows must be at least 1, not {self.calibration_rows}"
            )
        if self.method is not None and self.method not in METHODS:
            raise OptionError(
                f"compress.neural_compressor.method must be one of {', '.join(METHODS)}, or null, not '{self.method}'"
            )
        if self.bits not in BITS:
            raise OptionError(f"compress.neural_compressor.bits must be 4 or 8, not {self.bits}")
        if self.method in ENCODER_METHODS and self.bits != 8:
            raise OptionError(f"compress.neural_compressor.method={self.method} supports 8 bits only: leave bits=8")
        if self.tolerable_loss is not None and not 0 <= self.tolerable_loss < 1:
            raise OptionError(
                f"compress.neural_compressor.tolerable_loss must be at least 0 and below 1, not {self.tolerable_loss}"
            )
        if self.tolerable_loss is not None and self.method not in (None, "static"):
            raise OptionError(f"compress.neural_compressor.tolerable_loss needs method=static, not {self.method}")
        if self.group_size < 2 or self.group_size % 2:
            raise OptionError(
                f"compress.neural_compressor.group_size must be even and at least 2, not {self.group_size}"
            )


class NeuralCompressor(Compressor):
    """Compressor that quantizes encoders to 8-bit integers, and the weights of language models."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("neural_compressor", "torch", "transformers", "openvino")
    form: ClassVar[tuple[str, str]] = (TRAINABLE, COMPILED)
    Options = QuantizeOptions

    def __init__(self, options: QuantizeOptions) -> None:
        self.options = options

    def check_task(self, task: Task) -> None:
        """Refuse options of encoders for a generative task, the reverse, and models that others start from."""
        if task.is_pretraining:
            raise PlanError(f"plugin 'neural_compressor' compresses models that answer, not those of {task.name}")
        options, methods = self.options, LANGUAGE_METHODS if task.is_generative else ENCODER_METHODS
        if options.method not in (None, *methods):
            kind = "encoders" if options.method in ENCODER_METHODS else "language models"
            raise OptionError(
                f"compress.neural_compressor.method={options.method} is for {kind}, not for {task.name}: "
                f"leave it out, or take {' or '.join(methods)}"
            )
        if not task.is_generative and options.bits != 8:
            raise OptionError(
                f"compress.neural_compressor.bits={options.bits} is for language models, not for {task.name}"
            )
        if task.is_generative and options.tolerable_loss is not None:
            raise OptionError(f"compress.neural_compressor.tolerable_loss is for encoders, not for {task.name}")
        if options.method == "autoround" and missing_packages(["auto_round"]):
            raise MissingPackageError(
                "compress.neural_compressor.method=autoround needs auto-round: pip install auto-round"
            )

    @hookimpl
    def compress(self, run: CompressContext) -> StagedArtifact:
        """Quantize the model with each method that may be the best on this processor.

        Raises:
            UserError: No method supports the model.
        """
        staged: list[StagedArtifact] = []
        methods = choose_methods(self.options, run.task)
        for method in methods:
            try:
                staged.append(self._quantize(run, method))
            except UserError as error:
                if not staged and method == methods[-1]:
                    raise
                run.emit(WarningRaised(f"method={method}: {error}"))
        return replace(staged[0], alternatives=tuple(staged[1:]))

    def _quantize(self, run: CompressContext, method: str | None) -> StagedArtifact:
        """Quantize the model with one method, in a child process."""
        from fastserve_core.processes import PRELOAD_MODULES, run_in_child

        draft = run.clean_folder(f"draft-{method}")
        request = {
            "model": run.model.folder,
            "data": run.data.folder,
            "task": [run.task.name, vars(run.task.options), list(run.labels)],
            "draft": draft,
            "options": vars(self.options) | {"method": method},
            "seed": run.seed,
        }
        run_in_child("fastserve_neural_compressor.worker", request, run.threads, run.emit, PRELOAD_MODULES)
        return StagedArtifact(draft, engine="openvino", form=COMPILED, variant=method or "")


def choose_methods(options: QuantizeOptions, task: Task) -> tuple[str | None, ...]:
    """Return the methods to try.

    Without 8-bit units, integers take longer than floats in many models, and with bf16 units they are hardly faster.
    There ``dynamic``, which stores 8 bits and computes in floats, is tried too.

    Args:
        options: The plugin's options.
        task: The task of the model.
    """
    from fastserve_core.processes import read_processor

    is_chosen = options.method is not None or options.tolerable_loss is not None
    if is_chosen or task.is_generative or not read_processor().may_prefer_floats:
        return (options.method,)
    return ENCODER_METHODS
