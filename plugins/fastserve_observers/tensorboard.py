"""Write a run's curves for TensorBoard while it is running."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fastserve_core import hookimpl
from fastserve_core.artifacts import expand_user
from fastserve_core.errors import OptionError
from fastserve_core.events import Event
from fastserve_core.plugins import Observer
from fastserve_observers.event_router import EventRouter, Sink, get_run_folder


@dataclass
class TensorBoardOptions:
    """Options of ``observe.tensorboard``.

    Attributes:
        folder: Folder of the event files; null is ``tensorboard`` in the run folder.
    """

    folder: str | None = None

    def __post_init__(self) -> None:
        if self.folder is not None and not self.folder.strip():
            raise OptionError("observe.tensorboard.folder must not be empty: set a folder, or leave it out")


class TensorBoard(Observer):
    """Observer that writes loss, learning rate, rates and measures as scalars, and trials as hyperparameters."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("tensorboard",)
    Options: ClassVar[type] = TensorBoardOptions

    def __init__(self, options: TensorBoardOptions) -> None:
        self._options = options
        self._router = EventRouter("observe.tensorboard", self._open)

    @hookimpl
    def observe(self, event: Event) -> None:
        """Write one event."""
        self._router.observe(event)

    def _open(self) -> Sink:
        from fastserve_observers.tensorboard_writer import EventFileWriter

        if self._options.folder:
            return EventFileWriter(expand_user(self._options.folder))
        return EventFileWriter((get_run_folder() or Path("outputs")) / "tensorboard")
