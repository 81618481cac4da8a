"""Turns a run into MLflow's words: options to params, figures to metrics, lineage to tags, trials to nested runs."""

from __future__ import annotations

import atexit
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fastserve_core.artifacts import read_record
from fastserve_core.errors import UserError
from fastserve_core.events import StageFinished, TrialFinished
from fastserve_observers.delivery_queue import DeliveryQueue
from fastserve_observers.event_router import DONE, Warn, warn
from fastserve_observers.mlflow_batch import Metric, MetricBatch
from fastserve_observers.mlflow_client import MlflowSender
from fastserve_observers.scalars import by_path, stage_figures, step_figures

FORBIDDEN = re.compile(r"[^\w/.\- :]")
PASSWORD = re.compile(r"//[^/@]*@")
NOT_PARAMS = ("observe", "default_observers", "blocked_plugins")
FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"


class Tracker:
    """Puts parcels into the outbox; the run is closed at exit when nothing else closed it."""

    def __init__(self, uri: str, experiment: str, flush_s: float, folder: Path | None, config: DictConfig) -> None:
        self._shown, self._flush_s, self._folder = PASSWORD.sub("//", uri), flush_s, folder
        self._began = time.time()
        self._known: set[str] = set()
        name = f"{folder.parent.name}/{folder.name}" if folder else ""
        self._outbox = DeliveryQueue(MlflowSender(uri, experiment, name), self._tag)
        tags = {"mlflow.source.name": "fastserve"} | ({"folder": str(folder)} if folder else {})
        self._enqueue(params=self._new(_at_start(config)), tags=tags)
        atexit.register(self._close_run)

    def write_scalars(self, place: str, values: Mapping[str, float], step: int, when: float) -> None:
        self._enqueue(figures=[Metric(_name(f"{place}/{name}"), value, step, when) for name, value in values.items()])

    def trial(self, place: str, event: TrialFinished, steps: Sequence[Warn]) -> None:
        now = time.time()
        figures = [
            Metric(name, value, step.step, when) for when, step in steps for name, value in step_figures(step).items()
        ]
        if event.score is not None:
            figures.append(Metric("score", event.score, 0, now))
            self.write_scalars(place, {"score": event.score}, event.number, now)
        ended = (FAILED if event.score is None else FINISHED, now)
        params = {_name(path): str(value) for path, value in by_path(event.options).items()}
        self._outbox.put(MetricBatch(f"trial {event.number}", now - event.seconds, figures, params, ended=ended))

    def stage(self, place: str, event: StageFinished) -> None:
        """The measures, and from ``run.json`` what the stage was done with: its options and digests."""
        line, data = self._recorded()
        tags = {f"status.{place}": event.status, f"reason.{place}": event.reason}
        tags |= {f"lineage.{place}": str(line.get("digest", "")), "lineage.data": str(data.get("fingerprint", ""))}
        self._enqueue(
            params=self._new(by_path(line.get("options", {}), place)),
            tags={_name(name): value for name, value in tags.items() if value},
        )
        self.write_scalars(place, stage_figures(event), 0, time.time())

    def close(self, status: str) -> None:
        self._close(FINISHED if status == DONE else FAILED)

    def _close_run(self) -> None:
        """The process ends before the run did: it was interrupted, or refused what a stage gave it."""
        try:
            interrupted = self._folder is not None and read_record(self._folder)["status"] == "interrupted"
        except UserError:
            interrupted = False
        self._close(KILLED if interrupted else FAILED)

    def _close(self, status: str) -> None:
        atexit.unregister(self._close_run)
        self._enqueue(ended=(status, time.time()))
        if not self._outbox.close(self._flush_s):
            warn(
                f"observe.mlflow: {self._shown} was too slow, the last figures of this run may not have arrived "
                f"(waited {self._flush_s:g} s for it: observe.mlflow.flush_s)"
            )

    def _tag(self, error: Exception) -> None:
        while error.__context__ is not None and isinstance(error.__context__, Exception):
            error = error.__context__  # MLflow wraps a refused connection several times
        warn(
            f"observe.mlflow: {self._shown} does not take what it is told ({str(error) or type(error).__name__}). "
            "The run goes on; it is tried again until the end, and what has not arrived by then is lost there"
        )

    def _enqueue(self, **news: Any) -> None:
        self._outbox.put(MetricBatch("", self._began, **news))

    def _new(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Those that have a value and were not told yet: MLflow refuses to change a param."""
        found = {_name(path): str(value) for path, value in options.items() if value not in (None, "")}
        new = {name: value for name, value in found.items() if name not in self._known}
        self._known |= new.keys()
        return new

    def _recorded(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The last stage's line of ``run.json``, and what it says of the data."""
        if self._folder is None:
            return {}, {}
        record = read_record(self._folder)
        return record["stages"][-1], record["data"]


def _at_start(config: DictConfig) -> dict[str, Any]:
    """The options that no stage changes: a tuner may yet find others for the trainer."""
    tuned = ("train",) if config.get("tune") else ()
    values: Any = OmegaConf.to_container(config)
    return by_path({name: value for name, value in values.items() if name not in (*NOT_PARAMS, *tuned)})


def _name(text: str) -> str:
    """A name as MLflow allows it."""
    return FORBIDDEN.sub("_", text)
