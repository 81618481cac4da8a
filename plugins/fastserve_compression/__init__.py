"""Makes models smaller in torch: prunes what matters least, and codes large embedding tables by their parts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from fastserve_compression.run_in_child import run_in_child
from fastserve_core import hookimpl
from fastserve_core.errors import ErrorCollector, InvalidOption
from fastserve_core.plugins import CompressContext, Compressor, StagedArtifact

UNSTRUCTURED = "unstructured"
PATTERN = re.compile(r"(\d+):(\d+)")
"""N:M: of M weights in a row that follow each other, N stay."""
CODEBOOKS = ("fp32", "fp16")
MAX_CENTROIDS = 256
"""What one byte can tell apart."""


@dataclass
class PruneOptions:
    """``heads`` and ``neurons`` are the shares that are cut out of attention and feed-forward layers.

    ``layers`` are the numbers of whole layers to drop, from 0. ``rows`` of the training split decide what matters
    least. ``sparsity`` is the share of the weights that is set to zero in each linear layer; the ``pattern`` 2:4
    sets two of each four to zero instead.
    """

    head_ratio: float = 0.33
    neuron_ratio: float = 0.5
    layers: list[int] = field(default_factory=list)
    uniform: bool = False
    rows: int = 512
    sparsity: float = 0.0
    pattern: str = UNSTRUCTURED

    def __post_init__(self) -> None:
        faults = ErrorCollector()
        for name in ("head_ratio", "neuron_ratio", "sparsity"):
            with faults.collect():
                if not 0 <= getattr(self, name) < 1:
                    raise InvalidOption(
                        f"compress.prune.{name} must be at least 0 and below 1, not {getattr(self, name)}"
                    )
        with faults.collect():
            if self.rows < 1:
                raise InvalidOption(f"compress.prune.rows must be at least 1, not {self.rows}")
        with faults.collect():
            if any(number < 0 for number in self.layers) or len(set(self.layers)) < len(self.layers):
                raise InvalidOption(f"compress.prune.layers are different numbers from 0, not {self.layers}")
        with faults.collect():
            self._check_pattern()
        faults.raise_if_any()
        if not (self.head_ratio or self.neuron_ratio or self.layers or self.masks):
            raise InvalidOption(
                "compress.prune has nothing to do: head_ratio, neuron_ratio and sparsity are 0, and layers are none"
            )

    @property
    def masks(self) -> bool:
        """Whether single weights are set to zero."""
        return self.sparsity > 0 or self.pattern != UNSTRUCTURED

    def _check_pattern(self) -> None:
        if self.pattern == UNSTRUCTURED:
            return
        found = PATTERN.fullmatch(self.pattern)
        if found is None or not 0 < int(found[1]) < int(found[2]):
            raise InvalidOption(f"compress.prune.pattern is {UNSTRUCTURED} or N:M such as 2:4, not '{self.pattern}'")
        if self.sparsity:
            raise InvalidOption(f"compress.prune.pattern={self.pattern} says the share by itself: leave sparsity at 0")


@dataclass
class VectorQuantizeOptions:
    """Each row of an embedding table is cut into parts of ``width`` numbers; a part is one of ``centroids`` codes.

    Tables of fewer than ``min_rows`` rows stay as they are. With ``weighted`` the rows that the training split
    uses often are kept more exactly. ``codebooks`` is the number format of the codes' values in the file.
    """

    width: int = 4
    centroids: int = 256
    min_rows: int = 1024
    weighted: bool = True
    codebooks: str = "fp32"

    def __post_init__(self) -> None:
        faults, here = ErrorCollector(), "compress.vector_quantize"
        with faults.collect():
            if self.width < 1:
                raise InvalidOption(f"{here}.width must be at least 1, not {self.width}")
        with faults.collect():
            if not 2 <= self.centroids <= MAX_CENTROIDS:
                raise InvalidOption(f"{here}.centroids must lie between 2 and {MAX_CENTROIDS}, not {self.centroids}")
        with faults.collect():
            if self.min_rows < self.centroids:
                raise InvalidOption(
                    f"{here}.min_rows must be at least centroids, {self.centroids}; not {self.min_rows}"
                )
        with faults.collect():
            if self.codebooks not in CODEBOOKS:
                raise InvalidOption(f"{here}.codebooks must be one of {', '.join(CODEBOOKS)}, not '{self.codebooks}'")
        faults.raise_if_any()


class Prune(Compressor):
    """The compressor that cuts out attention heads, neurons and layers."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "safetensors")
    wants_training: ClassVar[bool] = True
    Options = PruneOptions

    def __init__(self, options: PruneOptions) -> None:
        self.options = options

    @hookimpl
    def compress(self, run: CompressContext) -> StagedArtifact:
        return run_in_child(
            "fastserve_compression.prune", run, data=run.data.folder, options=vars(self.options), seed=run.seed
        )


class VectorQuantize(Compressor):
    """The compressor that codes embedding tables."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "safetensors", "sklearn")
    wants_training: ClassVar[bool] = True
    Options = VectorQuantizeOptions

    def __init__(self, options: VectorQuantizeOptions) -> None:
        self.options = options

    @hookimpl
    def compress(self, run: CompressContext) -> StagedArtifact:
        data = run.data.folder if self.options.weighted else None
        # scikit-learn adds up in the order in which its threads end: each part gets one, so that equal runs give
        # equal bytes, and there are as many parts at a time as threads
        return run_in_child(
            "fastserve_compression.vector_quantize",
            run,
            threads=1,
            data=data,
            options=vars(self.options),
            seed=run.seed,
            workers=run.threads,
        )
