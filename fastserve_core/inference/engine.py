"""The base class of engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fastserve_core.errors import PlanError
from fastserve_core.tasks.declarations import DEFAULT_OUTPUTS
from fastserve_core.tasks.encoded import Arrays
from fastserve_core.tasks.generation import DecodeEngine


class Engine(ABC):
    """Runs the model of a folder: named arrays in, named arrays out. Use it in the thread that made it.

    Attributes:
        requires: Modules that it imports; a missing one is reported with ``install``.
        install: The requirement that installs them.
        imports: Slow modules that it imports, for ``run_in_child``.
        takes_weights: Whether it runs folders of Hugging Face weights, besides files compiled for it.
        generates: Whether ``generate`` is implemented.
        decodes: Whether ``make_decoder`` is implemented.
        takes_adapters: Whether ``make_decoder`` takes adapters.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = "fastserve-core[engines]"
    imports: ClassVar[tuple[str, ...]] = ()
    takes_weights: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    decodes: ClassVar[bool] = False
    takes_adapters: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, folder: Path, threads: int, outputs: Sequence[str] = DEFAULT_OUTPUTS) -> None:
        """Load the model of a folder.

        Args:
            folder: The model folder.
            threads: The number of threads of one pass.
            outputs: Patterns of the names of the outputs that ``run`` returns: ``Task.outputs``. Files compiled for
                the engine may have others too.
        """

    @abstractmethod
    def run(self, inputs: Arrays) -> Arrays:
        """Compute one forward pass; inputs that the model does not take are ignored.

        Args:
            inputs: Arrays of shape (batch, length) by input name.

        Returns:
            Arrays by output name.
        """

    def run_all(self, batches: Iterable[Arrays]) -> Iterator[Arrays]:
        """Compute several forward passes.

        Override it if concurrent passes are faster.

        Args:
            batches: The inputs of each pass.

        Yields:
            The outputs of each pass, in the same order.
        """
        return map(self.run, batches)

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        """Continue each row of ``input_ids``.

        Args:
            inputs: ``input_ids`` and ``attention_mask`` of shape (batch, length), padded on the left.
            options: The task's options of generation, such as ``max_new_tokens``.

        Returns:
            ``ids`` of the new tokens, of shape (batch, new tokens).

        Raises:
            PlanError: The engine does not generate text.
        """
        raise PlanError(f"{type(self).__name__} does not generate text")

    @staticmethod
    def make_decoder(
        folder: Path, threads: int, memory: int, adapters: Mapping[str, Path] | None = None
    ) -> DecodeEngine:
        """Load the model for decoding many texts token by token.

        Args:
            folder: The model folder.
            threads: The number of threads of one pass.
            memory: Bytes for keys and values.
            adapters: Folders with PEFT's files by the names that chunks select them by; only if ``takes_adapters``.

        Raises:
            PlanError: The engine does not support it.
        """
        raise PlanError("this engine does not decode token by token")

    @abstractmethod
    def close(self) -> None:
        """Free the model."""
