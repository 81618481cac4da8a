"""Checkpoints as safetensors files, written atomically and in the background."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

MAX_CHECKPOINTS = 2
BEST = "best.safetensors"
METADATA_KEY = "about"


class CheckpointWriter:
    """Writes files of tensors, one after another, in a background thread.

    The caller must not change the tensors after it passed them. If a file cannot be written, for example because the
    disk is full, the writer warns and keeps the previous file.

    Args:
        folder: The folder of the files.
        warn: Receives warnings.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.folder, self.warn = folder, warn
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self.pending: Future[None] | None = None

    def write_checkpoint(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Write ``checkpoint-<step>.safetensors`` and delete all but the newest two.

        Args:
            tensors: The tensors by name.
            progress: The metadata, with the number of the ``step``.
        """
        self._submit(f"checkpoint-{progress['step']:08d}.safetensors", tensors, progress)

    def write_best(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Write the best weights so far, with their metadata."""
        self._submit(BEST, tensors, metadata)

    def _submit(self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        self.wait()
        on_cpu = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        self.pending = self.executor.submit(self._write, self.folder / name, on_cpu, dict(metadata))

    def _write(self, path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        try:
            write_tensors(path, tensors, metadata)
        except (OSError, SafetensorError) as error:
            path.with_suffix(".partial").unlink(missing_ok=True)
            self.warn(f"{path.name} could not be written ({error}); training continues, and the previous file is kept")
            return
        for old in list_checkpoints(self.folder)[MAX_CHECKPOINTS:]:
            old.unlink()

    def wait(self) -> None:
        """Wait until the last file is on disk."""
        if self.pending is not None:
            self.pending.result()
            self.pending = None


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a safetensors file atomically.

    Args:
        path: The file.
        tensors: The tensors by name.
        metadata: JSON values.

    Raises:
        OSError: The file cannot be written.
        SafetensorError: The tensors cannot be serialized.
    """
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={METADATA_KEY: json.dumps(metadata)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the metadata of a file.

    Raises:
        OSError: The file cannot be read.
        SafetensorError: The file is damaged.
    """
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, Any] = json.loads(file.metadata()[METADATA_KEY])
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - not a mapping


def read_newest(folder: Path, warn: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the newest checkpoint that is not damaged.

    Args:
        folder: The folder of the checkpoints.
        warn: Receives a warning for each damaged checkpoint.

    Returns:
        Tensors and metadata, or ``None`` if there is no readable checkpoint.
    """
    for path in list_checkpoints(folder):
        try:
            return read_tensors(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            warn(f"the checkpoint {path.name} cannot be read ({error}); the previous one is used")
    return None


def copy_weights(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy named weights into a model's parameters and buffers."""
    state = model.state_dict()
    for name, value in tensors.items():
        state[name].copy_(value)
