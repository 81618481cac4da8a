"""TensorBoard's event files, written with its own record writer and without torch."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from fastserve_core.errors import wrap_write_errors
from fastserve_core.events import StageFinished, TrialFinished
from fastserve_observers.event_router import Warn
from fastserve_observers.scalars import stage_figures, step_figures

VERSION = "brain.Event:2"
"""What TensorBoard expects in the first record of a file."""


class EventFiles:
    """A folder with one subfolder a stage, and below the tuner's one a trial, so that curves lie over each other.

    Every event is written at once: what was told before a kill can be read after it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, RecordWriter] = {}

    def write_scalars(self, place: str, values: Mapping[str, float], step: int, when: float) -> None:
        self._write(place, [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()], step, when)

    def trial(self, place: str, event: TrialFinished, steps: Sequence[Warn]) -> None:
        """The trial as a session of the HPARAMS page, with its curves and its score."""
        now, own = time.time(), f"{place}/trial-{event.number:04d}"
        self._write(own, [_session_start(event.options, now - event.seconds)], 0, now - event.seconds)
        for when, step in steps:
            self.write_scalars(own, step_figures(step), step.step, when)
        if event.score is not None:
            self.write_scalars(own, {"score": event.score}, steps[-1][1].step if steps else 0, now)
            self.write_scalars(place, {"score": event.score}, event.number, now)
        self._write(own, [_session_end(event.score is not None, now)], 0, now)
        self._files.pop(own).close()

    def stage(self, place: str, event: StageFinished) -> None:
        self.write_scalars(place, stage_figures(event), 0, time.time())

    def close(self, status: str) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _write(self, place: str, values: Iterable[Summary.Value], step: int, when: float) -> None:
        with wrap_write_errors("TensorBoard's events", self._folder / place):
            file = self._files.get(place) or self._open(place)
            file.write(Event(wall_time=when, step=step, summary=Summary(value=values)).SerializeToString())
            file.flush()

    def _open(self, place: str) -> RecordWriter:
        folder = self._folder / place
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        file = self._files[place] = RecordWriter((folder / name).open("wb"))
        file.write(Event(wall_time=time.time(), file_version=VERSION).SerializeToString())
        return file


def _session_start(options: Mapping[str, Any], when: float) -> Summary.Value:
    info = SessionStartInfo(start_time_secs=when)
    for path, value in options.items():
        if isinstance(value, bool):
            info.hparams[path].bool_value = value
        elif isinstance(value, (int, float)):
            info.hparams[path].number_value = value
        else:
            info.hparams[path].string_value = str(value)
    return _session(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))


def _session_end(succeeded: bool, when: float) -> Summary.Value:
    info = SessionEndInfo(status=STATUS_SUCCESS if succeeded else STATUS_FAILURE, end_time_secs=when)
    return _session(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))


def _session(tag: str, data: HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
