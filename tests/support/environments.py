"""Virtual environments for packages that tests install."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import forks


class Environment:
    """A virtual environment that has the running one beneath it: torch is there, and what is installed is its own."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        self.packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (self.packages / "beneath.pth").write_text(line)
        forks.ENVIRONMENTS[str(self.python)] = str(self.packages)

    def run(self, *arguments: object, cwd: Path, **environment: str) -> str:
        """What ``python -m ARGUMENTS`` prints; it must succeed."""
        return self._succeed(["-m", *map(str, arguments)], cwd, environment)

    def run_script(self, *arguments: object, cwd: Path, **environment: str) -> str:
        """What ``python ARGUMENTS`` prints; it must succeed."""
        return self._succeed([*map(str, arguments)], cwd, environment)

    def _succeed(self, arguments: list[str], cwd: Path, environment: dict[str, str]) -> str:
        done = subprocess.run(
            [self.python, *arguments],
            cwd=cwd,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def install(self, *packages: Path, cwd: Path) -> None:
        """With pip, which builds each package as its pyproject says: the one step that uses the network."""
        self.run("pip", "install", "--quiet", "--no-deps", *packages, cwd=cwd, FASTSERVE_TESTS_ONLINE="1")
