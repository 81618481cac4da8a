"""Hands parcels to MLflow's client; MLflow is imported by the thread that delivers first."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  (MLflow imports it too, which fails in a run that already ends)
from typing import Any

from fastserve_observers.mlflow_batch import MetricBatch

MAX_METRICS_PER_BATCH, MAX_PARAMS_PER_BATCH = 1000, 100
"""The most metrics, and params or tags, that MLflow takes in one request."""


class MlflowSender:
    """Called with parcels; takes out of them what has arrived."""

    def __init__(self, uri: str, experiment: str, name: str) -> None:
        self._uri, self._experiment, self._name = uri, experiment, name
        self._opened: Any = None
        self._place = ""
        self._runs: dict[str, str] = {}

    def __call__(self, parcels: list[MetricBatch]) -> None:
        for parcel in parcels:
            self._send(parcel)

    def _client(self) -> Any:
        if self._opened is None:
            from mlflow import MlflowClient

            self._opened = MlflowClient(self._uri)
        return self._opened

    def _send(self, parcel: MetricBatch) -> None:
        from mlflow.entities import Metric, Param, RunTag

        client, run = self._client(), self._runs.get(parcel.run) or self._create(parcel)
        while names := list(parcel.params)[:MAX_PARAMS_PER_BATCH]:
            client.log_batch(run, params=[Param(name, parcel.params[name]) for name in names])
            parcel.params = {name: value for name, value in parcel.params.items() if name not in names}
        while names := list(parcel.tags)[:MAX_PARAMS_PER_BATCH]:
            client.log_batch(run, tags=[RunTag(name, parcel.tags[name]) for name in names])
            parcel.tags = {name: value for name, value in parcel.tags.items() if name not in names}
        while figures := parcel.figures[:MAX_METRICS_PER_BATCH]:
            client.log_batch(run, [Metric(one.name, one.value, _milliseconds(one.when), one.step) for one in figures])
            parcel.figures = parcel.figures[MAX_METRICS_PER_BATCH:]
        if parcel.ended is not None:
            status, when = parcel.ended
            client.set_terminated(run, status, _milliseconds(when))
            parcel.ended = None

    def _create(self, parcel: MetricBatch) -> str:
        """A run for the parcel; a trial's is nested in the run itself, which is spoken of first."""
        parent = {"mlflow.parentRunId": self._runs[""]} if parcel.run else {}
        name = parcel.run or self._name or None
        made = self._client().create_run(self._experiment_id(), _milliseconds(parcel.began), parent, name)
        self._runs[parcel.run] = str(made.info.run_id)
        return self._runs[parcel.run]

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        if not self._place:
            found = self._client().get_experiment_by_name(self._experiment)
            try:
                self._place = found.experiment_id if found else self._client().create_experiment(self._experiment)
            except MlflowException:  # another run was quicker
                found = self._client().get_experiment_by_name(self._experiment)
                if found is None:
                    raise
                self._place = found.experiment_id
        return self._place


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
