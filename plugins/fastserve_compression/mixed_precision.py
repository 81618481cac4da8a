"""Stores a model's weights in 16 bits: half the size, and faster where the processor has bf16 instructions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from fastserve_compression.run_in_child import run_in_child
from fastserve_core import hookimpl
from fastserve_core.errors import InvalidOption, did_you_mean
from fastserve_core.plugins import CompressContext, Compressor, StagedArtifact

HERE = "compress.mixed_precision"
FORMATS = {"bf16": "bfloat16", "fp16": "float16"}
"""By option, torch's name."""


@dataclass
class MixedPrecisionOptions:
    """``dtype`` is the number format of the weights; those of the parameters that a pattern of ``keep`` names
    (``classifier.*``, ``*LayerNorm*``) stay in fp32."""

    dtype: str = "bf16"
    keep: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.dtype not in FORMATS:
            raise InvalidOption(
                f"{HERE}.dtype must be one of {', '.join(FORMATS)}, not '{self.dtype}'"
                f"{did_you_mean(self.dtype, FORMATS)}"
            )


class MixedPrecision(Compressor):
    """The compressor that halves the weights; what comes out trains on."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "safetensors")
    Options = MixedPrecisionOptions

    def __init__(self, options: MixedPrecisionOptions) -> None:
        self.options = options

    @hookimpl
    def compress(self, run: CompressContext) -> StagedArtifact:
        return run_in_child(
            "fastserve_compression.half_precision", run, dtype=self.options.dtype, keep=self.options.keep
        )
