"""Commands of the command line that packages provide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from fastserve_core.events import Event

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions


class Command(ABC):
    """A command; an entry point of the group ``fastserve.commands`` provides its class, and has its name.

    Import heavy packages in ``run`` only: the module is imported to show the command's help.

    Attributes:
        help: A line on the command.
    """

    help: ClassVar[str]

    @abstractmethod
    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the arguments; ``data.OPTION=VALUE`` may stand beside those of every command."""

    @abstractmethod
    def run(self, options: Namespace, data: DataOptions, emit: Callable[[Event], None]) -> int:
        """Run the command.

        Args:
            options: The arguments.
            data: The options of reading files among them.
            emit: Shows notices, warnings and progress.

        Returns:
            The exit code.
        """
