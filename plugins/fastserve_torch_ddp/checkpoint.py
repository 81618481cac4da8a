"""Checkpoints as safetensors: weights, the optimizer's state, and where training stood; written atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

KEPT = 2
MODEL, OPTIMIZER = "model.", "optimizer."


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
    """Write ``checkpoint-<step>.safetensors``; only the newest two are kept."""
    tensors = {MODEL + name: value for name, value in trained(model).items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{number}.{name}": value for name, value in state.items()}
    write(folder / f"checkpoint-{step:08d}.safetensors", tensors, {"step": step, **progress})
    for old in checkpoints(folder)[KEPT:]:
        old.unlink()


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """A safetensors file that appears whole."""
    partial = path.with_suffix(".partial")
    copies = {name: value.detach().contiguous() for name, value in tensors.items()}
    save_file(copies, partial, metadata={"about": json.dumps(about)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors, tied ones once."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen or value.numel() == 0:
            found[name] = value
            seen.add(value.data_ptr())
    return found


def restore_model(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy tensors made by ``trained`` into the model."""
    own = model.state_dict()
    for name, value in tensors.items():
        own[name].copy_(value)


def checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file's tensors and what is written about them; raises ``SafetensorError`` or ``OSError``."""
    with safe_open(path, framework="pt") as file:
        about: dict[str, Any] = json.loads(file.metadata()["about"])
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - not a mapping


def restore(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """Load the newest checkpoint that can be read; returns its progress, or ``None`` when there is none."""
    for path in checkpoints(folder):
        try:
            tensors, progress = read(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            warn(f"the checkpoint {path.name} cannot be read ({error}); the one before it is used")
            continue
        restore_model(model, {name.removeprefix(MODEL): one for name, one in tensors.items() if name.startswith(MODEL)})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(OPTIMIZER):
                number, _, key = name.removeprefix(OPTIMIZER).partition(".")
                state.setdefault(int(number), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return progress
    return None
