"""The variables of libraries, and what onnxruntime does at its import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

IMPORTS = """
from fastserve_core.processes import set_library_environment
set_library_environment()
import onnxruntime
"""


def test_onnxruntime_leaves_nothing_in_the_home_and_temporary_folders(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "temporary").mkdir()
    folders = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary")}
    own = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    subprocess.run([sys.executable, "-c", IMPORTS], env=inherited | folders, check=True, timeout=120)
    assert [str(path) for folder in folders.values() for path in Path(folder).rglob("*")] == []
