"""What the quantizer's process works on."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastserve_core.data import Dataset
from fastserve_core.events import Event
from fastserve_core.tasks import Row, Task
from fastserve_neural_compressor import QuantizeOptions


@dataclass(frozen=True)
class QuantizeJob:
    """A model's folder, the data, what is asked for, and the folder for the engine's files."""

    task: Task
    model: Path
    data: Dataset
    folder: Path
    options: QuantizeOptions
    seed: int
    progress: Callable[[Event], None]

    def floats(self) -> Any:
        """The model in fp32, in evaluation mode."""
        return self.task.build(self.model).float().eval()

    def sample(self) -> list[Row]:
        """The training rows to calibrate on."""
        rows = self.data.rows("train")
        return random.Random(self.seed).sample(rows, min(self.options.calibration_rows, len(rows)))
