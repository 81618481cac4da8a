"""Environment variables of dependencies: no telemetry, no hub, no busy waiting; the user's own settings stay."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fastserve_core.processes.resources import WAIT_POLICY_ENV

QUIET_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",  # read when onnxruntime is imported, which otherwise starts to send at once
    "RAY_USAGE_STATS_ENABLED": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
}
COMPILE_CACHE_ENV = "TORCHINDUCTOR_CACHE_DIR"
"""The folder of torch's compiled code; ``import torch`` makes it, by default in the folder for temporary files."""
NOISY_LOGGERS = ("torchao", "torch.utils._pytree")
"""Loggers that warn at the import of transformers about kernels for other machines and each other's versions."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def set_library_environment(offline: bool = True) -> None:
    """Set the variables that dependencies read, in this process and its children.

    Args:
        offline: Whether Hugging Face libraries may not use the network.
    """
    for name, value in (QUIET_ENVIRONMENT | WAIT_POLICY_ENV | (OFFLINE if offline else {})).items():
        os.environ.setdefault(name, value)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def skip_compile_cache() -> None:
    """Keep ``import torch`` from making a folder for compiled code in this process and its children.

    For processes of the command line only, because the compiled code of a Python program would be stored between
    the other temporary files. A training that compiles sets a folder in the store.
    """
    os.environ.setdefault(COMPILE_CACHE_ENV, tempfile.gettempdir())


@contextmanager
def suppress_library_output() -> Iterator[None]:
    """Suppress log messages and warnings in this context; handlers that an import installs are removed."""
    root, level = logging.getLogger(), logging.root.manager.disable
    handlers = root.handlers[:]
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        root.handlers[:] = handlers  # importing OpenVINO's decoder installs a console handler


@contextmanager
def hide_package(name: str) -> Iterator[None]:
    """Make an optional package look missing while another one is imported in this context.

    ``import openvino`` sends an event with ``openvino_telemetry`` if that is installed, and works without it.

    Args:
        name: The package.
    """
    missing = object()
    module = sys.modules.get(name, missing)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if module is missing:
            del sys.modules[name]
        else:
            sys.modules[name] = module  # type: ignore[assignment]
