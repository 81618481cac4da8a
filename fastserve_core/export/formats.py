"""How a model becomes files that another runtime reads; who writes a format is found by the format's name."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from fastserve_core.entry_points import load_entry_point, missing_packages
from fastserve_core.errors import ExportError, MissingPackage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastserve_core.tasks.task import Arrays

GROUP = "fastserve.exports"


class FormatReader(Protocol):
    """An exported file in its own runtime; an engine is one."""

    inputs: tuple[str, ...]

    def run(self, inputs: Arrays) -> Arrays:
        """One pass over int arrays (batch, length), padded on the right; inputs that it does not take are left out."""


class ExportFormat(Protocol):
    """One model on its way into a format; made from a model of transformers in evaluation mode.

    ``module`` takes what ``example`` gives, in the order of ``inputs``, and gives a tuple in that of
    ``outputs``. A compressor may put another module with the same interface in its place: a quantized graph.
    """

    requires: ClassVar[tuple[str, ...]]
    """The packages that write and read the format."""
    install: ClassVar[str]
    """What pip has to install for them."""
    engine: ClassVar[str]
    """The engine whose files these are, if there is one: artifacts made for it are in this format already."""
    about: ClassVar[Mapping[str, Any]]
    """What ``export.json`` says of the format besides: its opset, say."""
    tolerance: ClassVar[float]
    """How far an answer may be from the reference's, as a part of the largest one (at least of 1)."""
    shape: tuple[str | int, str | int]
    """The inputs' batch and length: a number where the file takes this one only."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    longest: int
    module: nn.Module

    def example(self) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
        """Inputs to trace ``module`` with, and which of their dimensions stay free, for ``torch.export``."""

    def write(self, module: nn.Module, folder: Path) -> None:
        """Write the files; raises ``ExportError`` with the reason."""

    @staticmethod
    def reference(folder: Path, threads: int) -> FormatReader:
        """The model of that folder as the files have to answer."""

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        """The files that ``write`` wrote, loaded by their own runtime."""


def export_format(name: str) -> Any:
    """The class of that format; raises ``UnknownName``, and ``MissingPackage`` with what to install."""
    kind = load_entry_point(GROUP, name)
    if missing := missing_packages(kind.requires):
        raise MissingPackage(f"the export '{name}' needs {', '.join(missing)}: pip install '{kind.install}'")
    return kind


def load_format(name: str, model: Any) -> ExportFormat:
    """The export of a model to the format of that name; raises ``UnknownName`` where nobody provides it."""
    made: ExportFormat = load_entry_point(GROUP, name)(model)
    return made


@contextmanager
def single_line_error(step: str) -> Iterator[None]:
    """Whatever the libraries raise (each has its own dozen) becomes ``ExportError``."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 300)
        raise ExportError(f"the model cannot be {step}: {reason}") from error
