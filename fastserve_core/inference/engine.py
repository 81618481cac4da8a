"""The base class of engines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from fastserve_core.errors import InvalidPlan
from fastserve_core.tasks.generation import DecodeEngine
from fastserve_core.tasks.task import Arrays


class Engine:
    """Named arrays in, named arrays out, for one model folder. Use it in the thread that made it.

    Attributes:
        requires: Modules that it imports; a missing one is reported with ``install``.
        install: The requirement that installs them.
        imports: Slow modules that it imports; a process that is forked for it has them loaded already.
        takes_weights: Whether it runs folders of Hugging Face weights, besides files compiled for it.
        generates: Whether ``generate`` works.
        decodes: Whether ``make_decoder`` works.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = "fastserve-core[engines]"
    imports: ClassVar[tuple[str, ...]] = ()
    takes_weights: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    decodes: ClassVar[bool] = False

    def __init__(self, folder: Path, threads: int) -> None:
        """Load the model of a folder.

        Args:
            folder: The model folder.
            threads: The number of threads of one pass.
        """
        raise NotImplementedError

    def run(self, inputs: Arrays) -> Arrays:
        """Compute one forward pass; inputs that the model does not take are left out.

        Args:
            inputs: Arrays of shape (batch, length) by input name.

        Returns:
            Arrays by output name.
        """
        raise NotImplementedError

    def run_all(self, batches: Iterable[Arrays]) -> Iterator[Arrays]:
        """Compute several forward passes; yields their outputs in the order of the inputs.

        Override it if several passes at a time are faster than one after the other.
        """
        return map(self.run, batches)

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        """Continue each row of ``input_ids`` (padded on the left).

        Returns:
            ``ids`` of the new tokens, of shape (batch, new tokens).

        Raises:
            InvalidPlan: The engine does not generate text.
        """
        raise InvalidPlan(f"{type(self).__name__} does not generate text")

    @staticmethod
    def make_decoder(folder: Path, threads: int, memory: int) -> DecodeEngine:
        """Load the model as one that decodes many texts token by token.

        Args:
            folder: The model folder.
            threads: The number of threads of one pass.
            memory: Bytes for keys and values.
        """
        raise InvalidPlan("this engine does not decode token by token")

    def close(self) -> None:
        """Free the model."""
