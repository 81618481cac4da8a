"""Checkpoints as safetensors: written in the background, whole or not at all."""

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


class CheckpointWriter:
    """Writes files of tensors in a thread of its own, one after another, while training goes on.

    The tensors are handed over: nobody may change them any more. A file that cannot be written (a full disk) is
    warned of, and what was there before it stays.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.folder, self.warn = folder, warn
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self.last: Future[None] | None = None

    def checkpoint(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Keep ``checkpoint-<step>.safetensors``; only the newest two stay."""
        self._start(f"checkpoint-{progress['step']:08d}.safetensors", tensors, progress)

    def best(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Keep these as the best weights."""
        self._start(BEST, tensors, about)

    def _start(self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        self.wait()
        here = {key: one.detach().cpu().contiguous() for key, one in tensors.items()}
        self.last = self.writer.submit(self._write, self.folder / name, here, dict(about))

    def _write(self, path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        try:
            write(path, tensors, about)
        except (OSError, SafetensorError) as error:
            path.with_suffix(".partial").unlink(missing_ok=True)
            self.warn(f"{path.name} could not be written ({error}); training goes on, and the one before it is kept")
            return
        for old in checkpoints(self.folder)[MAX_CHECKPOINTS:]:
            old.unlink()

    def wait(self) -> None:
        """Until everything that was given is on the disk."""
        if self.last is not None:
            self.last.result()
            self.last = None


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """A safetensors file that appears whole."""
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"about": json.dumps(about)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file's tensors and what is written about them; raises ``SafetensorError`` or ``OSError``."""
    with safe_open(path, framework="pt") as file:
        about: dict[str, Any] = json.loads(file.metadata()["about"])
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - not a mapping


def newest(folder: Path, warn: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that can be read, and its progress; one that cannot is warned of."""
    for path in checkpoints(folder):
        try:
            return read(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            warn(f"the checkpoint {path.name} cannot be read ({error}); the one before it is used")
    return None


def restore(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy named weights into a model's parameters and buffers."""
    own = model.state_dict()
    for name, value in tensors.items():
        own[name].copy_(value)
