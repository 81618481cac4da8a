"""The protocol of export formats, which are entry points of the group ``fastserve.exports``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from fastserve_core.entry_points import load_entry_point, missing_packages
from fastserve_core.errors import ExportError, MissingPackageError
from fastserve_core.export.reasons import explain_export_error
from fastserve_core.tasks.declarations import DEFAULT_OUTPUTS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastserve_core.tasks.encoded import Arrays

GROUP = "fastserve.exports"


class FormatReader(Protocol):
    """Runs exported files with their own runtime; an engine is one.

    Attributes:
        inputs: The names of the inputs.
    """

    inputs: tuple[str, ...]

    def run(self, inputs: Arrays) -> Arrays:
        """Compute one forward pass; inputs that the model does not take are ignored.

        Args:
            inputs: Integer arrays of shape (batch, length) by input name, padded on the right.

        Returns:
            Arrays by output name.
        """


class ExportFormat(Protocol):
    """The export of one model to a format.

    It is made from a model of transformers in evaluation mode, patterns of the names of the outputs to export, and the
    names of modules whose weights an export to fewer bits leaves as they are.

    Attributes:
        requires: The packages that write and read the format.
        install: The requirement that installs them.
        engine: The engine that reads the format, if there is one; artifacts for it are already in this format.
        about: Further entries of ``export.json``, such as the opset.
        tolerance: The allowed difference of an output from the reference, relative to the largest one (at least 1).
        shape: The batch and length of the inputs: a number if it is fixed, else a name.
        inputs: The names of the inputs.
        outputs: The names of the outputs.
        longest: The maximum length of an input, in tokens.
        module: Takes the tensors of ``example`` in the order of ``inputs`` and returns a tuple in the order of
            ``outputs``. A compressor may replace it with a module of the same interface, such as a quantized graph.
    """

    requires: ClassVar[tuple[str, ...]]
    install: ClassVar[str]
    engine: ClassVar[str]
    about: ClassVar[Mapping[str, Any]]
    tolerance: ClassVar[float]
    shape: tuple[str | int, str | int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    longest: int
    module: nn.Module

    def example(self) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
        """Return inputs to trace ``module`` with, and their dynamic dimensions, both as for ``torch.export``."""

    def write(self, module: nn.Module, folder: Path) -> None:
        """Write the files.

        Args:
            module: ``module``, or its replacement.
            folder: The folder to write into.

        Raises:
            ExportError: The module cannot be written in this format.
        """

    @staticmethod
    def reference(folder: Path, threads: int, outputs: Sequence[str] = DEFAULT_OUTPUTS) -> FormatReader:
        """Load the original model, with which the files are compared.

        Args:
            folder: The model's folder.
            threads: The number of threads of one pass.
            outputs: Patterns of the names of the outputs.
        """

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        """Load the files that ``write`` wrote with their own runtime.

        Args:
            folder: The folder with the files.
            threads: The number of threads of one pass.
        """


def load_format_class(name: str) -> Any:
    """Load the class of a format.

    Raises:
        UnknownNameError: There is no such format.
        MissingPackageError: A package that it requires is not installed.
    """
    kind = load_entry_point(GROUP, name)
    if missing := missing_packages(kind.requires):
        raise MissingPackageError(f"the export '{name}' needs {', '.join(missing)}: pip install '{kind.install}'")
    return kind


def load_format(name: str, model: Any, outputs: Sequence[str] = DEFAULT_OUTPUTS) -> ExportFormat:
    """Prepare the export of a model.

    Args:
        name: The format.
        model: A model of transformers in evaluation mode.
        outputs: Patterns of the names of the outputs to export: ``Task.outputs``.

    Raises:
        UnknownNameError: There is no such format.
    """
    export: ExportFormat = load_entry_point(GROUP, name)(model, outputs)
    return export


@contextmanager
def wrap_export_errors(step: str) -> Iterator[None]:
    """Raise any error of a library in this context as ``ExportError`` with a message of one line.

    Args:
        step: The participle of the step for the message, such as ``exported``.
    """
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        reason = explain_export_error(error) or textwrap.shorten(str(error) or type(error).__name__, 300)
        raise ExportError(f"the model cannot be {step}: {reason}") from error
