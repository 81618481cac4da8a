"""Child process of ``neural_compressor``: quantize a model for its task and write the engine's files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fastserve_core.artifacts import copy_tokenizer
from fastserve_core.data import load_dataset
from fastserve_core.errors import ExportError, ModelError
from fastserve_core.events import Progress
from fastserve_core.processes import child_main, event_writer
from fastserve_core.tasks import load_task
from fastserve_neural_compressor import QuantizeOptions, encoders, language
from fastserve_neural_compressor.job import QuantizeJob

CONFIG_FILES = ("config.json", "generation_config.json")


def quantize(
    model: str,
    data: str,
    task: tuple[str, Mapping[str, Any], Sequence[str]],
    draft: str,
    options: Mapping[str, Any],
    seed: int,
    events: str,
) -> None:
    """Write the quantized model into the draft folder.

    Args:
        model: Folder of the model.
        data: Folder of the prepared dataset.
        task: Name, options and labels of the task.
        draft: Folder to write.
        options: Values of ``QuantizeOptions`` by name.
        seed: Seed of the calibration rows.
        events: Path that progress events are written to.

    Raises:
        ModelError: The model cannot be quantized.
    """
    source, target, dataset = (Path(path).absolute() for path in (model, draft, data))
    emit = event_writer(events)
    _redirect_library_files()
    job = QuantizeJob(load_task(*task), source, load_dataset(dataset), target, QuantizeOptions(**options), seed, emit)
    emit(Progress("quantizing", 0, 1))
    torch.manual_seed(seed)
    try:
        (language if job.task.is_generative else encoders).quantize(job)
    except ExportError as error:
        raise ModelError(f"{source} cannot be quantized: {error}") from error
    for name in CONFIG_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    copy_tokenizer(source, target, skip_vocabularies=True)
    emit(Progress("quantizing", 1, 1))


def _redirect_library_files() -> None:
    """Send the files that neural_compressor writes to a folder that is removed.

    These are ``nc_workspace`` in the working directory, and a log for Habana's devices in the home folder.
    """
    os.chdir(tempfile.gettempdir())
    os.environ.setdefault("HABANA_LOGS", tempfile.gettempdir())


if __name__ == "__main__":
    child_main(quantize)
