"""Writes a run's curves for TensorBoard while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fastserve_core import hookimpl
from fastserve_core.errors import InvalidOption
from fastserve_core.events import Event
from fastserve_core.plugins import Observer
from fastserve_observers.event_router import EventRouter, Sink, run_folder


@dataclass
class TensorBoardOptions:
    """``folder``: where the event files go; without it, ``tensorboard`` in the run's folder."""

    folder: str | None = None

    def __post_init__(self) -> None:
        if self.folder is not None and not self.folder.strip():
            raise InvalidOption("observe.tensorboard.folder is empty: name a folder, or leave it out")


class TensorBoard(Observer):
    """Loss, learning rate, rates, validation and measures as scalars, trials as hyperparameters."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("tensorboard",)
    Options: ClassVar[type] = TensorBoardOptions

    def __init__(self, options: TensorBoardOptions) -> None:
        self._options = options
        self._follower = EventRouter("observe.tensorboard", self._open)

    @hookimpl
    def observe(self, event: Event) -> None:
        self._follower.observe(event)

    def _open(self) -> Sink:
        from fastserve_observers.tensorboard_writer import EventFiles

        given = self._options.folder
        return EventFiles(Path(given).expanduser() if given else (run_folder() or Path("outputs")) / "tensorboard")
