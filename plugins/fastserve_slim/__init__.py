"""Makes models smaller in torch: prunes what matters least, and codes large embedding tables by their parts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from fastserve_core import hookimpl
from fastserve_core.errors import BadOption, Collector
from fastserve_core.plugins.contexts import Draft, Run
from fastserve_slim.starting import made_by

UNSTRUCTURED = "unstructured"
PATTERN = re.compile(r"(\d+):(\d+)")
"""N:M: of M weights in a row that follow each other, N stay."""
CODEBOOKS = ("fp32", "fp16")
MOST_CENTROIDS = 256
"""What one byte can tell apart."""


@dataclass
class PruneOptions:
    """``heads`` and ``neurons`` are the shares that are cut out of attention and feed-forward layers.

    ``layers`` are the numbers of whole layers to drop, from 0. ``rows`` of the training split decide what matters
    least. ``sparsity`` is the share of the weights that is set to zero in each linear layer; the ``pattern`` 2:4
    sets two of each four to zero instead.
    """

    heads: float = 0.33
    neurons: float = 0.5
    layers: list[int] = field(default_factory=list)
    uniform: bool = False
    rows: int = 512
    sparsity: float = 0.0
    pattern: str = UNSTRUCTURED

    def __post_init__(self) -> None:
        faults = Collector()
        for name in ("heads", "neurons", "sparsity"):
            with faults.collect():
                if not 0 <= getattr(self, name) < 1:
                    raise BadOption(f"compress.prune.{name} must be at least 0 and below 1, not {getattr(self, name)}")
        with faults.collect():
            if self.rows < 1:
                raise BadOption(f"compress.prune.rows must be at least 1, not {self.rows}")
        with faults.collect():
            if any(number < 0 for number in self.layers) or len(set(self.layers)) < len(self.layers):
                raise BadOption(f"compress.prune.layers are different numbers from 0, not {self.layers}")
        with faults.collect():
            self._check_pattern()
        faults.raise_if_any()
        if not (self.heads or self.neurons or self.layers or self.masks):
            raise BadOption("compress.prune has nothing to do: heads, neurons and sparsity are 0, and layers are none")

    @property
    def masks(self) -> bool:
        """Whether single weights are set to zero."""
        return self.sparsity > 0 or self.pattern != UNSTRUCTURED

    def _check_pattern(self) -> None:
        if self.pattern == UNSTRUCTURED:
            return
        found = PATTERN.fullmatch(self.pattern)
        if found is None or not 0 < int(found[1]) < int(found[2]):
            raise BadOption(f"compress.prune.pattern is {UNSTRUCTURED} or N:M such as 2:4, not '{self.pattern}'")
        if self.sparsity:
            raise BadOption(f"compress.prune.pattern={self.pattern} says the share by itself: leave sparsity at 0")


@dataclass
class VectorQuantizeOptions:
    """Each row of an embedding table is cut into parts of ``width`` numbers; a part is one of ``centroids`` codes.

    Tables of fewer than ``least_rows`` rows stay as they are. With ``weighted`` the rows that the training split
    uses often are kept more exactly. ``codebooks`` is the number format of the codes' values in the file.
    """

    width: int = 4
    centroids: int = 256
    least_rows: int = 1024
    weighted: bool = True
    codebooks: str = "fp32"

    def __post_init__(self) -> None:
        faults, here = Collector(), "compress.vector_quantize"
        with faults.collect():
            if self.width < 1:
                raise BadOption(f"{here}.width must be at least 1, not {self.width}")
        with faults.collect():
            if not 2 <= self.centroids <= MOST_CENTROIDS:
                raise BadOption(f"{here}.centroids must lie between 2 and {MOST_CENTROIDS}, not {self.centroids}")
        with faults.collect():
            if self.least_rows < self.centroids:
                raise BadOption(
                    f"{here}.least_rows must be at least centroids, {self.centroids}; not {self.least_rows}"
                )
        with faults.collect():
            if self.codebooks not in CODEBOOKS:
                raise BadOption(f"{here}.codebooks must be one of {', '.join(CODEBOOKS)}, not '{self.codebooks}'")
        faults.raise_if_any()


class Prune:
    """The compressor that cuts out attention heads, neurons and layers."""

    api_version: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "safetensors")
    wants_training: ClassVar[bool] = True
    Options = PruneOptions

    def __init__(self, options: PruneOptions) -> None:
        self.options = options

    @hookimpl
    def compress(self, run: Run) -> Draft:
        return made_by("fastserve_slim.prune", run, data=run.data.folder, options=vars(self.options), seed=run.seed)


class VectorQuantize:
    """The compressor that codes embedding tables."""

    api_version: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "safetensors", "sklearn")
    wants_training: ClassVar[bool] = True
    Options = VectorQuantizeOptions

    def __init__(self, options: VectorQuantizeOptions) -> None:
        self.options = options

    @hookimpl
    def compress(self, run: Run) -> Draft:
        data = run.data.folder if self.options.weighted else None
        # scikit-learn adds up in the order in which its threads end: each part gets one, so that equal runs give
        # equal bytes, and there are as many parts at a time as threads
        return made_by(
            "fastserve_slim.vector_quantize",
            run,
            threads=1,
            data=data,
            options=vars(self.options),
            seed=run.seed,
            workers=run.threads,
        )
