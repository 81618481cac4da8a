"""How a model becomes files that an engine reads; who writes a format is found by the format's name."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fastserve_core.errors import Unexportable
from fastserve_core.registry import provide

if TYPE_CHECKING:
    from torch import Tensor, nn

GROUP = "fastserve.exports"


class Export(Protocol):
    """One model on its way into a format; made from a model of transformers in evaluation mode.

    ``module`` takes what ``example`` gives, in the order of ``inputs``, and gives a tuple in that of
    ``outputs``. A compressor may put another module with the same interface in its place: a quantized graph.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    longest: int
    module: nn.Module

    def example(self) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
        """Inputs to trace ``module`` with, and which of their dimensions stay free, for ``torch.export``."""

    def write(self, module: nn.Module, folder: Path) -> None:
        """Write the files; raises ``Unexportable`` with the reason."""


def exporter(name: str, model: Any) -> Export:
    """The export of a model to the format of that name; raises ``UnknownName`` where nobody provides it."""
    made: Export = provide(GROUP, name)(model)
    return made


@contextmanager
def one_line(step: str) -> Iterator[None]:
    """Whatever the libraries raise (each has its own dozen) becomes ``Unexportable``."""
    try:
        yield
    except Unexportable:
        raise
    except Exception as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, 300)
        raise Unexportable(f"the model cannot be {step}: {reason}") from error
