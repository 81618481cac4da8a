"""Send batches through MLflow's client, which the delivery thread imports on first use."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  (MLflow's import of it fails while the interpreter exits)
from typing import Any

from fastserve_observers.mlflow_batch import MetricBatch

MAX_METRICS_PER_BATCH, MAX_PARAMS_PER_BATCH = 1000, 100
"""Maximum numbers of metrics, and of params or tags, in one request to MLflow."""


class MlflowSender:
    """Callable that sends batches and removes the data that has arrived from them."""

    def __init__(self, uri: str, experiment: str, name: str) -> None:
        """Create the sender without connecting.

        Args:
            uri: Tracking URI.
            experiment: Name of the experiment.
            name: Name of the run.
        """
        self._uri, self._experiment, self._name = uri, experiment, name
        self._mlflow_client: Any = None
        self._cached_experiment_id = ""
        self._runs: dict[str, str] = {}

    def __call__(self, batches: list[MetricBatch]) -> None:
        """Send the batches in order."""
        for batch in batches:
            self._send(batch)

    def _client(self) -> Any:
        if self._mlflow_client is None:
            from mlflow import MlflowClient

            self._mlflow_client = MlflowClient(self._uri)
        return self._mlflow_client

    def _send(self, batch: MetricBatch) -> None:
        from mlflow.entities import Metric, Param, RunTag

        client, run = self._client(), self._runs.get(batch.run) or self._create(batch)
        while names := list(batch.params)[:MAX_PARAMS_PER_BATCH]:
            client.log_batch(run, params=[Param(name, batch.params[name]) for name in names])
            batch.params = {name: value for name, value in batch.params.items() if name not in names}
        while names := list(batch.tags)[:MAX_PARAMS_PER_BATCH]:
            client.log_batch(run, tags=[RunTag(name, batch.tags[name]) for name in names])
            batch.tags = {name: value for name, value in batch.tags.items() if name not in names}
        while metrics := batch.metrics[:MAX_METRICS_PER_BATCH]:
            client.log_batch(
                run,
                [
                    Metric(metric.name, metric.value, _to_milliseconds(metric.timestamp), metric.step)
                    for metric in metrics
                ],
            )
            batch.metrics = batch.metrics[MAX_METRICS_PER_BATCH:]
        if batch.end is not None:
            status, when = batch.end
            client.set_terminated(run, status, _to_milliseconds(when))
            batch.end = None

    def _create(self, batch: MetricBatch) -> str:
        """Create a run in MLflow; a trial's run is nested in the run itself, which comes first."""
        parent = {"mlflow.parentRunId": self._runs[""]} if batch.run else {}
        name = batch.run or self._name or None
        mlflow_run = self._client().create_run(self._experiment_id(), _to_milliseconds(batch.start_time), parent, name)
        self._runs[batch.run] = str(mlflow_run.info.run_id)
        return self._runs[batch.run]

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        if not self._cached_experiment_id:
            experiment = self._client().get_experiment_by_name(self._experiment)
            try:
                self._cached_experiment_id = (
                    experiment.experiment_id if experiment else self._client().create_experiment(self._experiment)
                )
            except MlflowException:  # another run created it meanwhile
                experiment = self._client().get_experiment_by_name(self._experiment)
                if experiment is None:
                    raise
                self._cached_experiment_id = experiment.experiment_id
        return self._cached_experiment_id


def _to_milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
