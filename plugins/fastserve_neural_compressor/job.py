"""Input of the quantization methods."""

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
    """Model, data and options of one quantization.

    Attributes:
        task: Task of the model.
        model: Folder of the model.
        data: Prepared dataset.
        folder: Folder for the engine's files.
        options: Options of the plugin.
        seed: Seed of the calibration rows.
        emit: Callback of events.
    """

    task: Task
    model: Path
    data: Dataset
    folder: Path
    options: QuantizeOptions
    seed: int
    emit: Callable[[Event], None]

    def load_model(self) -> Any:
        """Return the model in fp32 and evaluation mode."""
        return self.task.build(self.model).float().eval()

    def sample_rows(self) -> list[Row]:
        """Return the training rows to calibrate on."""
        rows = self.data.rows("train")
        return random.Random(self.seed).sample(rows, min(self.options.calibration_rows, len(rows)))
