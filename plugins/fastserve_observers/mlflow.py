"""Log a run to MLflow: a local store, or a tracking server that may be slow or unreachable."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from omegaconf import DictConfig, OmegaConf

from fastserve_core import hookimpl
from fastserve_core.artifacts import default_home, expand_user
from fastserve_core.entry_points import all_entry_points, missing_packages
from fastserve_core.errors import MissingPackageError, OptionError, did_you_mean
from fastserve_core.events import Event
from fastserve_core.plugins import Observer
from fastserve_observers.event_router import EventRouter, Sink, get_run_folder

URI_VARIABLE = "MLFLOW_TRACKING_URI"
LOCAL_SCHEMES = ("", "file")
DATABASE_SCHEMES = ("sqlite", "mysql", "postgresql", "mssql")
SERVER_SCHEMES = ("http", "https", "databricks", "uc")
ENVIRONMENT = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # the only local store without database packages
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the delivery queue retries
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass
class MLflowOptions:
    """Options of ``observe.mlflow``.

    Attributes:
        tracking_uri: Tracking server or local store; null is ``MLFLOW_TRACKING_URI``, or ``mlruns`` in the store.
        experiment: Name of the experiment.
        flush_s: Maximum number of seconds that the end of a run waits for the delivery.
    """

    tracking_uri: str | None = None
    experiment: str = "fastserve"
    flush_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise OptionError("observe.mlflow.experiment must not be empty")
        if not 0 < self.flush_s < float("inf"):
            raise OptionError(
                f"observe.mlflow.flush_s must be a finite number of seconds greater than 0, not {self.flush_s}"
            )


class MLflow(Observer):
    """Observer that logs one MLflow run per run, with nested runs for trials, in a background thread."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("mlflow",)
    Options: ClassVar[type] = MLflowOptions

    def __init__(self, options: MLflowOptions) -> None:
        self._options = options
        self._uri = options.tracking_uri or os.environ.get(URI_VARIABLE) or ""
        check_uri(self._uri, "observe.mlflow.tracking_uri" if options.tracking_uri else URI_VARIABLE)
        self._router = EventRouter("observe.mlflow", self._open)

    @hookimpl
    def observe(self, event: Event) -> None:
        """Log one event."""
        self._router.observe(event)

    def _open(self) -> Sink:
        from fastserve_observers.mlflow_tracker import MlflowTracker

        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        folder = get_run_folder()
        config = read_config(folder)
        home = expand_user(config.get("home") or default_home()).absolute()
        uri = self._uri or (home / "mlruns").as_uri()
        return MlflowTracker(uri, self._options.experiment, self._options.flush_s, folder, config)


def check_uri(uri: str, option: str) -> None:
    """Check that MLflow has a store for the URI and that its packages are installed.

    Args:
        uri: Tracking URI; empty is the default store.
        option: Name of the option or variable, for the error message.

    Raises:
        OptionError: MLflow has no store for the scheme.
        MissingPackageError: The database packages are not installed.
    """
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else ""
    plugin_schemes = [point.name for point in all_entry_points().select(group="mlflow.tracking_store")]
    known = [*LOCAL_SCHEMES, *DATABASE_SCHEMES, *SERVER_SCHEMES, *plugin_schemes]
    if scheme not in known and uri.partition(":")[0] not in ("file", *SERVER_SCHEMES):
        raise OptionError(f"{option}={uri}: MLflow has no store '{scheme}'{did_you_mean(scheme, filter(None, known))}")
    missing = missing_packages(("sqlalchemy", "alembic")) if scheme in DATABASE_SCHEMES else []
    if missing:
        raise MissingPackageError(
            f"{option}={uri}: a database needs {', '.join(missing)}: pip install {' '.join(missing)}, "
            "or use a folder or a server"
        )


def read_config(folder: Path | None) -> DictConfig:
    """Return the run's ``config.yaml``; empty for a run from Python."""
    path = folder / "config.yaml" if folder is not None else None
    config = OmegaConf.load(path) if path is not None and path.is_file() else OmegaConf.create()
    assert isinstance(config, DictConfig)
    return config
