"""Compress models in torch: pruning, and product quantization of embedding tables."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from fastserve_compression.run_in_child import run_compressor
from fastserve_core import hookimpl
from fastserve_core.errors import ErrorCollector, OptionError
from fastserve_core.plugins import CompressContext, Compressor, StagedArtifact

UNSTRUCTURED = "unstructured"
PATTERN_REGEX = re.compile(r"(\d+):(\d+)")
"""N:M sparsity: N of every M consecutive weights of a row keep their value."""
CODEBOOK_DTYPES = ("fp32", "fp16")
MAX_CENTROIDS = 256
"""Codes are stored as single bytes."""


@dataclass
class PruneOptions:
    """Options of ``compress.prune``.

    Attributes:
        head_ratio: Fraction of the attention heads to remove, in [0, 1).
        neuron_ratio: Fraction of the feed-forward neurons to remove, in [0, 1).
        layers: Indices of whole layers to drop, from 0.
        uniform: Keep the same number of neurons in each layer.
        rows: Number of training rows that importance is estimated on.
        sparsity: Fraction of the weights of each linear layer to set to zero, in [0, 1).
        pattern: ``unstructured``, or N:M such as 2:4, which keeps N of every M consecutive weights.
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
                    raise OptionError(
                        f"compress.prune.{name} must be at least 0 and below 1, not {getattr(self, name)}"
                    )
        with faults.collect():
            if self.rows < 1:
                raise OptionError(f"compress.prune.rows must be at least 1, not {self.rows}")
        with faults.collect():
            if any(index < 0 for index in self.layers) or len(set(self.layers)) < len(self.layers):
                raise OptionError(f"compress.prune.layers must be distinct indices from 0, not {self.layers}")
        with faults.collect():
            self._check_pattern()
        faults.raise_if_any()
        if not (self.head_ratio or self.neuron_ratio or self.layers or self.has_masks):
            raise OptionError(
                "compress.prune has nothing to do: head_ratio, neuron_ratio and sparsity are 0, and layers is empty"
            )

    @property
    def has_masks(self) -> bool:
        """Return whether single weights are set to zero."""
        return self.sparsity > 0 or self.pattern != UNSTRUCTURED

    def _check_pattern(self) -> None:
        if self.pattern == UNSTRUCTURED:
            return
        match = PATTERN_REGEX.fullmatch(self.pattern)
        if match is None or not 0 < int(match[1]) < int(match[2]):
            raise OptionError(f"compress.prune.pattern must be {UNSTRUCTURED} or N:M such as 2:4, not '{self.pattern}'")
        if self.sparsity:
            raise OptionError(f"compress.prune.pattern={self.pattern} already sets the ratio: leave sparsity at 0")


@dataclass
class VectorQuantizeOptions:
    """Options of ``compress.vector_quantize``.

    Attributes:
        width: Number of values of a row that share one code; by default 4, or 2 in tables that outputs are compared
            with.
        centroids: Number of codes per subspace, at most 256.
        min_rows: Tables with fewer rows are left unchanged.
        weighted: Weight rows by how often the training split uses them, except in tables that outputs are compared
            with.
        codebooks: Dtype of the codebooks in the file, ``fp32`` or ``fp16``.
    """

    width: int | None = None
    centroids: int = 256
    min_rows: int = 1024
    weighted: bool = True
    codebooks: str = "fp32"

    def __post_init__(self) -> None:
        faults, path = ErrorCollector(), "compress.vector_quantize"
        with faults.collect():
            if self.width is not None and self.width < 1:
                raise OptionError(f"{path}.width must be at least 1, not {self.width}")
        with faults.collect():
            if not 2 <= self.centroids <= MAX_CENTROIDS:
                raise OptionError(f"{path}.centroids must lie between 2 and {MAX_CENTROIDS}, not {self.centroids}")
        with faults.collect():
            if self.min_rows < self.centroids:
                raise OptionError(f"{path}.min_rows must be at least centroids, {self.centroids}; not {self.min_rows}")
        with faults.collect():
            if self.codebooks not in CODEBOOK_DTYPES:
                raise OptionError(
                    f"{path}.codebooks must be one of {', '.join(CODEBOOK_DTYPES)}, not '{self.codebooks}'"
                )
        faults.raise_if_any()


class Prune(Compressor):
    """Compressor that removes attention heads, neurons and layers, or masks weights."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "safetensors")
    wants_training: ClassVar[bool] = True
    Options = PruneOptions

    def __init__(self, options: PruneOptions) -> None:
        self.options = options

    @hookimpl
    def compress(self, run: CompressContext) -> StagedArtifact:
        """Prune the model in a child process."""
        return run_compressor(
            "fastserve_compression.prune", run, data=run.data.folder, options=vars(self.options), seed=run.seed
        )


class VectorQuantize(Compressor):
    """Compressor that replaces embedding tables by codes and codebooks."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "safetensors", "sklearn")
    wants_training: ClassVar[bool] = True
    Options = VectorQuantizeOptions

    def __init__(self, options: VectorQuantizeOptions) -> None:
        self.options = options

    @hookimpl
    def compress(self, run: CompressContext) -> StagedArtifact:
        """Quantize the embedding tables in a child process."""
        data = run.data.folder if self.options.weighted else None
        # scikit-learn sums in the order in which its threads finish. One thread per subspace makes runs
        # reproducible to the byte; as many subspaces run at a time as there are threads.
        return run_compressor(
            "fastserve_compression.vector_quantize",
            run,
            threads=1,
            data=data,
            options=vars(self.options),
            seed=run.seed,
            workers=run.threads,
        )
