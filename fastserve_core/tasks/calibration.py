"""What a task chooses on data after training, such as thresholds: a file of arrays in the model's folder."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fastserve_core.errors import ArtifactError, wrap_write_errors

if TYPE_CHECKING:
    from fastserve_core.tasks.encoded import Arrays

CALIBRATION_FILE = "calibration.npz"


def read_calibration(folder: Path) -> Arrays:
    """Return the arrays of a model folder by name; none if it has no such file.

    Raises:
        ArtifactError: The file is damaged.
    """
    import numpy as np

    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error


def write_calibration(folder: Path, arrays: Arrays) -> None:
    """Write arrays by name into a model folder, atomically; the same arrays give the same bytes.

    The old file is replaced rather than overwritten: another result may have it as well, as a hard link.

    Raises:
        StoreError: The file cannot be written.
    """
    import numpy as np

    path, named = folder / CALIBRATION_FILE, cast("dict[str, Any]", arrays)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with wrap_write_errors(path.name, folder):
            with partial.open("wb") as file:
                np.savez(file, **named)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
