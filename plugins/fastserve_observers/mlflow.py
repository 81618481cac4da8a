"""Logs a run to MLflow: a local store, or a tracking server that may be slow or away."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from omegaconf import DictConfig, OmegaConf

from fastserve_core import hookimpl
from fastserve_core.artifacts import default_home
from fastserve_core.entry_points import all_entry_points, missing_packages
from fastserve_core.errors import InvalidOption, MissingPackage, did_you_mean
from fastserve_core.events import Event
from fastserve_core.plugins import Observer
from fastserve_observers.event_router import EventRouter, Sink, run_folder

URI = "MLFLOW_TRACKING_URI"
LOCAL = ("", "file")
DATABASES = ("sqlite", "mysql", "postgresql", "mssql")
SERVERS = ("http", "https", "databricks", "uc")
ENVIRONMENT = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # the one local store that needs no database packages
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the outbox tries again by itself
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass
class MLflowOptions:
    """``flush_s``: the end of a run waits at most that many seconds until everything is delivered."""

    tracking_uri: str | None = None
    experiment: str = "fastserve"
    flush_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise InvalidOption("observe.mlflow.experiment is empty: give it a name")
        if not 0 < self.flush_s < float("inf"):
            raise InvalidOption(f"observe.mlflow.flush_s must be a number of seconds above 0, not {self.flush_s}")


class MLflow(Observer):
    """One MLflow run for a run, nested ones for its trials; a thread of its own delivers."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("mlflow",)
    Options: ClassVar[type] = MLflowOptions

    def __init__(self, options: MLflowOptions) -> None:
        self._options = options
        self._uri = options.tracking_uri or os.environ.get(URI) or ""
        check_uri(self._uri, "observe.mlflow.tracking_uri" if options.tracking_uri else URI)
        self._follower = EventRouter("observe.mlflow", self._open)

    @hookimpl
    def observe(self, event: Event) -> None:
        self._follower.observe(event)

    def _open(self) -> Sink:
        from fastserve_observers.mlflow_tracker import Tracker

        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        folder = run_folder()
        config = read_config(folder)
        home = Path(config.get("home") or default_home()).expanduser().absolute()
        uri = self._uri or (home / "mlruns").as_uri()
        return Tracker(uri, self._options.experiment, self._options.flush_s, folder, config)


def check_uri(uri: str, where: str) -> None:
    """Refuse an address that no store of MLflow answers to, or whose packages are missing."""
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else ""
    others = [one.name for one in all_entry_points().select(group="mlflow.tracking_store")]
    known = [*LOCAL, *DATABASES, *SERVERS, *others]
    if scheme not in known and uri.partition(":")[0] not in ("file", *SERVERS):
        raise InvalidOption(f"{where}={uri}: MLflow has no store '{scheme}'{did_you_mean(scheme, filter(None, known))}")
    missing = missing_packages(("sqlalchemy", "alembic")) if scheme in DATABASES else []
    if missing:
        raise MissingPackage(
            f"{where}={uri}: a database needs {', '.join(missing)}: pip install {' '.join(missing)}, "
            "or give a folder or a server"
        )


def read_config(folder: Path | None) -> DictConfig:
    """The run's ``config.yaml``; empty for a run from Python, which has none."""
    path = folder / "config.yaml" if folder is not None else None
    found = OmegaConf.load(path) if path is not None and path.is_file() else OmegaConf.create()
    assert isinstance(found, DictConfig)
    return found
