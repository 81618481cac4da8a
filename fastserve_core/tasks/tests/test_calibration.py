"""The file of what a task chooses on data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fastserve_core.errors import ArtifactError, StoreError
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


def test_a_result_that_shares_the_file_keeps_its_own(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    write_calibration(first, {"threshold": np.array(0.25)})
    os.link(first / CALIBRATION_FILE, second / CALIBRATION_FILE)
    write_calibration(second, {"threshold": np.array(0.75)})
    assert (float(read_calibration(first)["threshold"]), float(read_calibration(second)["threshold"])) == (0.25, 0.75)


def test_a_file_that_cannot_be_written_or_read_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="could not write calibration.npz"):
        write_calibration(tmp_path / "nowhere", {"threshold": np.array(0.5)})
    write_calibration(tmp_path, {"threshold": np.array(0.5)})
    content = (tmp_path / CALIBRATION_FILE).read_bytes()
    for damaged in (b"", content[:40], b"no archive", content.replace(b"NUMPY", b"NUMPX", 1)):
        (tmp_path / CALIBRATION_FILE).write_bytes(damaged)
        with pytest.raises(ArtifactError, match="cannot be read"):
            read_calibration(tmp_path)
