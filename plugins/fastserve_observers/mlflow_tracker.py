"""Translate a run to MLflow: options to params, measures to metrics, lineage to tags, trials to nested runs."""

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
from fastserve_observers.event_router import DONE, TimedStep, emit_warning
from fastserve_observers.mlflow_batch import Metric, MetricBatch
from fastserve_observers.mlflow_client import MlflowSender
from fastserve_observers.scalars import flatten_options, get_stage_scalars, get_step_scalars

INVALID_CHARACTERS = re.compile(r"[^\w/.\- :]")
PASSWORD = re.compile(r"//[^/@]*@")
EXCLUDED_OPTIONS = ("observe", "default_observers", "blocked_plugins")
FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"


class MlflowTracker:
    """Sink that queues batches for MLflow; at exit, it closes a run that is still open."""

    def __init__(self, uri: str, experiment: str, flush_s: float, folder: Path | None, config: DictConfig) -> None:
        """Start the delivery queue and enqueue the options of the run.

        Args:
            uri: Tracking URI.
            experiment: Name of the experiment.
            flush_s: Maximum number of seconds that ``close`` waits.
            folder: Run folder; None for a run from Python.
            config: Config of the run.
        """
        self._display_uri, self._flush_s, self._folder = PASSWORD.sub("//", uri), flush_s, folder
        self._start_time = time.time()
        self._logged_params: set[str] = set()
        name = f"{folder.parent.name}/{folder.name}" if folder else ""
        self._queue = DeliveryQueue(MlflowSender(uri, experiment, name), self._warn_delivery_failed)
        tags = {"mlflow.source.name": "fastserve"} | ({"folder": str(folder)} if folder else {})
        self._enqueue(params=self._select_new_params(_flatten_initial_options(config)), tags=tags)
        atexit.register(self._close_at_exit)

    def write_scalars(self, plugin: str, values: Mapping[str, float], step: int, when: float) -> None:
        """Enqueue values of a stage at one step."""
        self._enqueue(
            metrics=[Metric(_sanitize(f"{plugin}/{name}"), value, step, when) for name, value in values.items()]
        )

    def write_trial(self, plugin: str, event: TrialFinished, steps: Sequence[TimedStep]) -> None:
        """Enqueue a finished trial as a nested run."""
        now = time.time()
        metrics = [
            Metric(name, value, step.step, when)
            for when, step in steps
            for name, value in get_step_scalars(step).items()
        ]
        if event.score is not None:
            metrics.append(Metric("score", event.score, 0, now))
            self.write_scalars(plugin, {"score": event.score}, event.number, now)
        end = (FAILED if event.score is None else FINISHED, now)
        params = {_sanitize(path): str(value) for path, value in flatten_options(event.options).items()}
        self._queue.put(MetricBatch(f"trial {event.number}", now - event.seconds, metrics, params, end=end))

    def write_stage(self, plugin: str, event: StageFinished) -> None:
        """Enqueue the measures of a stage, with its options and digests from ``run.json``."""
        stage, data = self._read_last_stage()
        tags = {f"status.{plugin}": event.status, f"reason.{plugin}": event.reason}
        tags |= {f"lineage.{plugin}": str(stage.get("digest", "")), "lineage.data": str(data.get("fingerprint", ""))}
        self._enqueue(
            params=self._select_new_params(flatten_options(stage.get("options", {}), plugin)),
            tags={_sanitize(name): value for name, value in tags.items() if value},
        )
        self.write_scalars(plugin, get_stage_scalars(event), 0, time.time())

    def close(self, status: str) -> None:
        """Close the MLflow run."""
        self._close(FINISHED if status == DONE else FAILED)

    def _close_at_exit(self) -> None:
        """Close a run whose process ends first, because it was interrupted or a stage failed."""
        try:
            interrupted = self._folder is not None and read_record(self._folder)["status"] == "interrupted"
        except UserError:
            interrupted = False
        self._close(KILLED if interrupted else FAILED)

    def _close(self, status: str) -> None:
        atexit.unregister(self._close_at_exit)
        self._enqueue(end=(status, time.time()))
        if not self._queue.close(self._flush_s):
            emit_warning(
                f"observe.mlflow: {self._display_uri} is too slow, the last metrics of this run may be lost "
                f"(waited {self._flush_s:g} s: observe.mlflow.flush_s)"
            )

    def _warn_delivery_failed(self, error: Exception) -> None:
        while error.__context__ is not None and isinstance(error.__context__, Exception):
            error = error.__context__  # MLflow wraps a refused connection several times
        emit_warning(
            f"observe.mlflow: cannot deliver to {self._display_uri} ({str(error) or type(error).__name__}). "
            "The run continues and retries until its end; undelivered data is then lost"
        )

    def _enqueue(self, **news: Any) -> None:
        self._queue.put(MetricBatch("", self._start_time, **news))

    def _select_new_params(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Return options that have a value and were not logged yet, because MLflow rejects changed params."""
        params = {_sanitize(path): str(value) for path, value in options.items() if value not in (None, "")}
        new = {name: value for name, value in params.items() if name not in self._logged_params}
        self._logged_params |= new.keys()
        return new

    def _read_last_stage(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the last stage of ``run.json`` and its data section."""
        if self._folder is None:
            return {}, {}
        record = read_record(self._folder)
        return record["stages"][-1], record["data"]


def _flatten_initial_options(config: DictConfig) -> dict[str, Any]:
    """Return the options that no stage changes; a tuner may still change the trainer's."""
    tuned_options = ("train",) if config.get("tune") else ()
    values: Any = OmegaConf.to_container(config)
    return flatten_options(
        {name: value for name, value in values.items() if name not in (*EXCLUDED_OPTIONS, *tuned_options)}
    )


def _sanitize(text: str) -> str:
    """Replace the characters that MLflow does not allow in names."""
    return INVALID_CHARACTERS.sub("_", text)
