"""What the ranks are given, and where each of them works."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class TrainingJob:
    """What the ranks are given; plain values, since it crosses a process border."""

    model: str
    data: str
    tokens: str
    task: tuple[str, Mapping[str, Any], Sequence[str]]
    folder: str
    options: Mapping[str, Any]
    steps: int | None
    seed: int
    threads: int
    events: str
    lesson: Mapping[str, Any] | None = None
    pause: int | None = None


def own_device() -> torch.device:
    """The GPU of this rank, or the CPU."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")


def writes() -> bool:
    """Whether this rank writes its machine's files."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
