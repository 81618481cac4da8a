"""Keeps dependencies from phoning home, from the hub, and from spinning; what the user set stays."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fastserve_core.processes.resources import WAIT_POLICY_ENV

QUIET_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
}
NOISY_LOGGERS = ("torchao", "torch.utils._pytree")
"""Loggers that warn, when transformers is imported, of kernels for other machines and of each other's versions."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def library_environment(offline: bool = True) -> None:
    """Set the variables that dependencies read, for this process and those it starts."""
    for name, value in (QUIET_ENVIRONMENT | WAIT_POLICY_ENV | (OFFLINE if offline else {})).items():
        os.environ.setdefault(name, value)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def suppress_library_output() -> Iterator[None]:
    """No log line and no warning from libraries that log through the root logger, and at their import."""
    root, level = logging.getLogger(), logging.root.manager.disable
    handlers = root.handlers[:]
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        root.handlers[:] = handlers  # OpenVINO's decoder installs a console handler for good


@contextmanager
def hide_package(name: str) -> Iterator[None]:
    """Make a package that can be done without look missing while something else is imported.

    ``import openvino`` sends an event with ``openvino_telemetry``, where that is installed, and has a
    stand-in for when it is not.
    """
    missing = object()
    kept = sys.modules.get(name, missing)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if kept is missing:
            del sys.modules[name]
        else:
            sys.modules[name] = kept  # type: ignore[assignment]
