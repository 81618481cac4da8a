"""What a task chooses on data after training, such as thresholds: a file of arrays in the model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_core.tasks.task import Arrays

CALIBRATION_FILE = "calibration.npz"


def read_calibration(folder: Path) -> Arrays:
    """Return the arrays of a model folder by name; none if it has no such file."""
    import numpy as np

    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def write_calibration(folder: Path, arrays: Arrays) -> None:
    """Write arrays by name into a model folder; the same arrays give the same bytes."""
    import numpy as np

    np.savez(folder / CALIBRATION_FILE, allow_pickle=False, **arrays)
