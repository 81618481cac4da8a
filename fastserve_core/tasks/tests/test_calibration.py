"""The file of what a task chooses on data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastserve_core.tasks.calibration import CALIBRATION_FILE, read_calibration, write_calibration


def test_arrays_are_read_as_they_were_written_and_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) == {}
    arrays = {"thresholds": np.array([0.25, 0.5]), "temperature": np.array(1.5)}
    write_calibration(tmp_path, arrays)
    first = (tmp_path / CALIBRATION_FILE).read_bytes()
    write_calibration(tmp_path, dict(arrays))
    assert (tmp_path / CALIBRATION_FILE).read_bytes() == first
    found = read_calibration(tmp_path)
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
