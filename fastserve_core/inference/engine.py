"""The protocol of engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from fastserve_core.tasks.task import Arrays


class Engine(Protocol):
    """Named arrays in, named arrays out, for one model folder. Use it in the thread that made it.

    It may also have ``run_all``, which takes an iterable of inputs and yields their outputs in the same order: for
    engines that get more done with several passes at a time than with one after the other; ``imports``, the slow
    modules that it imports (see ``processes.child.call``); and ``stepper(folder, threads, memory)``, a static method
    that makes a ``tasks.generation.Stepper`` with that many bytes for keys and values.
    """

    requires: ClassVar[tuple[str, ...]]
    takes_weights: ClassVar[bool]
    """It runs folders of Hugging Face weights, besides the files that a compressor makes for it."""
    generates: ClassVar[bool]
    """It has a ``generate`` that works."""

    def __init__(self, folder: Path, threads: int) -> None: ...

    def run(self, inputs: Arrays) -> Arrays:
        """One pass; inputs that the model does not take are left out."""

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        """Continue each row of ``input_ids`` (left-padded); returns ``ids`` of the new tokens."""

    def close(self) -> None: ...
