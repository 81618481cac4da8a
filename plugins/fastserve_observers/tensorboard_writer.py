"""Write TensorBoard's event files with its own record writer, without torch."""

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
from fastserve_observers.event_router import TimedStep
from fastserve_observers.scalars import get_stage_scalars, get_step_scalars

FILE_VERSION = "brain.Event:2"
"""Version that TensorBoard expects in the first record of a file."""


class EventFileWriter:
    """Sink with one subfolder per stage and one per trial below the tuner's, so that TensorBoard overlays their curves.

    Every event is flushed, so that it can be read after the process is killed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, RecordWriter] = {}

    def write_scalars(self, plugin: str, values: Mapping[str, float], step: int, when: float) -> None:
        """Write values of a stage at one step."""
        self._write(plugin, [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()], step, when)

    def write_trial(self, plugin: str, event: TrialFinished, steps: Sequence[TimedStep]) -> None:
        """Write a finished trial as a session of the HPARAMS page, with its curves and its score."""
        now, path = time.time(), f"{plugin}/trial-{event.number:04d}"
        self._write(path, [_make_session_start(event.options, now - event.seconds)], 0, now - event.seconds)
        for when, step in steps:
            self.write_scalars(path, get_step_scalars(step), step.step, when)
        if event.score is not None:
            self.write_scalars(path, {"score": event.score}, steps[-1][1].step if steps else 0, now)
            self.write_scalars(plugin, {"score": event.score}, event.number, now)
        self._write(path, [_make_session_end(event.score is not None, now)], 0, now)
        self._files.pop(path).close()

    def write_stage(self, plugin: str, event: StageFinished) -> None:
        """Write the measures of a stage."""
        self.write_scalars(plugin, get_stage_scalars(event), 0, time.time())

    def close(self, status: str) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _write(self, path: str, values: Iterable[Summary.Value], step: int, when: float) -> None:
        with wrap_write_errors("TensorBoard's events", self._folder / path):
            file = self._files.get(path) or self._open(path)
            file.write(Event(wall_time=when, step=step, summary=Summary(value=values)).SerializeToString())
            file.flush()

    def _open(self, path: str) -> RecordWriter:
        folder = self._folder / path
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        file = self._files[path] = RecordWriter((folder / name).open("wb"))
        file.write(Event(wall_time=time.time(), file_version=FILE_VERSION).SerializeToString())
        return file


def _make_session_start(options: Mapping[str, Any], when: float) -> Summary.Value:
    info = SessionStartInfo(start_time_secs=when)
    for path, value in options.items():
        if isinstance(value, bool):
            info.hparams[path].bool_value = value
        elif isinstance(value, (int, float)):
            info.hparams[path].number_value = value
        else:
            info.hparams[path].string_value = str(value)
    return _make_session(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))


def _make_session_end(succeeded: bool, when: float) -> Summary.Value:
    info = SessionEndInfo(status=STATUS_SUCCESS if succeeded else STATUS_FAILURE, end_time_secs=when)
    return _make_session(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))


def _make_session(tag: str, data: HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
