"""The training job that each rank receives, and the rank's device and role on its machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class TrainingJob:
    """The parameters of a training, as plain values that can be sent to another process.

    Attributes:
        model: The folder of the model to train.
        data: The folder of the dataset.
        tokens: The folder of the tokenized training split.
        task: The task's name, options and labels.
        folder: The working folder, which receives checkpoints and the draft.
        options: The trainer's options.
        steps: The maximum number of optimizer steps, or ``None``.
        seed: The seed of all random numbers.
        threads: The number of threads of each rank.
        events: The file that events are written to.
        auxiliary_loss: The auxiliary loss and its options, or ``None``.
        stop_at_step: The step at which the training pauses, or ``None``.
    """

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
    auxiliary_loss: Mapping[str, Any] | None = None
    stop_at_step: int | None = None


def local_device() -> torch.device:
    """Return the GPU of this rank, or the CPU."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")


def is_local_main() -> bool:
    """Return whether this rank writes the files of its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
