"""Checkpoints as safetensors files with checksums, written atomically and in the background."""

from __future__ import annotations

import hashlib
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

from fastserve_core.errors import StageError, StoreError

MAX_CHECKPOINTS = 2
BEST = "best.safetensors"
METADATA_KEY, CHECKSUM_KEY = "about", "sha256"

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and their metadata."""


class CheckpointError(StageError):
    """A file of a training is damaged."""


class CheckpointWriter:
    """Writes files of tensors, one after another, in a background thread.

    The caller must not change the tensors after it passed them. If a file cannot be written, for example because the
    disk is full, the writer warns and keeps the previous file. The best weights are kept in memory until they are
    written, and no checkpoint is written before them, because a training that resumes from it needs them.

    Args:
        folder: The folder of the files.
        warn: Receives warnings.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.folder, self.warn = folder, warn
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self.pending: Future[None] | None = None
        self._unwritten_best: State | None = None

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
        self.pending = self.executor.submit(self._write, self.folder / name, (on_cpu, dict(metadata)))

    def _write(self, path: Path, state: State) -> None:
        if path.name == BEST:
            self._unwritten_best = state
        try:
            self._flush_best()
            if path.name != BEST:
                write_tensors(path, *state)
        except (OSError, SafetensorError) as error:
            self.warn(f"{path.name} could not be written ({error}); training continues, and the previous file is kept")
            return
        for old in list_checkpoints(self.folder)[MAX_CHECKPOINTS:]:
            old.unlink()

    def _flush_best(self) -> None:
        if self._unwritten_best is not None:
            write_tensors(self.folder / BEST, *self._unwritten_best)
            self._unwritten_best = None

    def wait(self) -> None:
        """Wait until the last file is on disk."""
        if self.pending is not None:
            self.pending.result()
            self.pending = None

    def finish(self) -> None:
        """Wait until the best weights are on disk.

        Raises:
            StoreError: They cannot be written.
        """
        self.wait()
        try:
            self._flush_best()
        except (OSError, SafetensorError) as error:
            raise StoreError(f"the best weights could not be written to {self.folder / BEST}: {error}") from error


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a safetensors file atomically, with a checksum of its content.

    Args:
        path: The file.
        tensors: The tensors by name.
        metadata: JSON values.

    Raises:
        OSError: The file cannot be written.
        SafetensorError: The tensors cannot be serialized.
    """
    partial, about = path.with_suffix(".partial"), json.dumps(metadata)
    try:
        save_file(tensors, partial, metadata={METADATA_KEY: about, CHECKSUM_KEY: _checksum(tensors, about)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _checksum(tensors: Mapping[str, Tensor], about: str) -> str:
    """Return the sha256 of the metadata and of each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)


def read_tensors(path: Path) -> State:
    """Read the tensors and the metadata of a file.

    Raises:
        CheckpointError: The file cannot be read, or has another checksum than it was written with.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if header[CHECKSUM_KEY] != _checksum(tensors, header[METADATA_KEY]):
            raise ValueError("its checksum does not match")
        return tensors, json.loads(header[METADATA_KEY])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error


def read_newest(folder: Path, warn: Callable[[str], None]) -> State | None:
    """Read the newest checkpoint that is intact, and whose best weights are too.

    Damaged files are renamed to ``*.damaged``. A checkpoint without its best weights is deleted: the training resumes
    from one that was written before the first evaluation, or starts again.

    Args:
        folder: The folder of the checkpoints.
        warn: Receives a warning for each damaged file.

    Returns:
        Tensors and metadata, or ``None`` if there is no such checkpoint.
    """
    best = _read_intact(folder / BEST, "the training goes back to before its first evaluation", warn)
    for path in list_checkpoints(folder):
        state = _read_intact(path, "the previous checkpoint is used", warn)
        if state is None:
            continue
        needed = state[1].get("best")
        if needed is None or (best is not None and best[1]["best"] >= needed):
            return state
        path.unlink()
    return None


def _read_intact(path: Path, consequence: str, warn: Callable[[str], None]) -> State | None:
    """Read a file; rename it and return ``None`` if it is damaged, and return ``None`` if there is none."""
    if not path.exists():
        return None
    try:
        return read_tensors(path)
    except CheckpointError as error:
        path.replace(path.with_suffix(".damaged"))
        warn(f"{error}; {consequence}")
        return None


def copy_weights(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy named weights into a model's parameters and buffers."""
    state = model.state_dict()
    for name, value in tensors.items():
        state[name].copy_(value)
