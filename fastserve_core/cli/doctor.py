"""``fastserve doctor``: what this machine and this installation can do, and what stands in the way."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastserve_core.artifacts.store import default_home
from fastserve_core.cli.arguments import parser, table
from fastserve_core.cli.plugins import describe
from fastserve_core.entry_points import DISTRIBUTION, installed_plugins
from fastserve_core.processes.resources import THREAD_VARIABLES, available_memory, usable_cores

PACKAGES = (DISTRIBUTION, "hydra-core", "pluggy", "torch", "transformers", "nevergrad", "neural-compressor",
            "openvino", "ray", "starlette")  # fmt: skip
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
LOW_DISK, LOW_MEMORY = 3e9, 2e9


def main(arguments: Sequence[str]) -> int:
    """Print the findings; exit code 0 when nothing stands in the way, else 1."""
    parser("doctor", "Check this machine and this installation.").parse_intermixed_args(arguments)
    home = default_home()
    free = shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free
    facts = [
        ["Python", f"{platform.python_version()} ({sys.executable})"],
        ["system", f"{platform.system()} {platform.machine()}"],
        ["cores", f"{usable_cores()} usable of {os.cpu_count()}"],
        ["CPU features", ", ".join(cpu_features()) or "unknown"],
        ["memory", f"{available_memory() / 1e9:.1f} GB available"],
        ["store", f"{home} ({free / 1e9:.1f} GB free)"],
    ]
    facts += [[name, _version(name)] for name in PACKAGES]
    print(table([["what", "found"], *facts]))
    found = problems(home, free)
    print("\n" + "\n".join(f"! {one}" for one in found) if found else "\nNothing stands in the way.")
    return 1 if found else 0


def problems(home: Path, free: float) -> list[str]:
    """What would make a run fail or crawl, each with what to do."""
    found = [
        f"plugin {one['name']}: {one['state']}"
        for one in map(describe, installed_plugins().values())
        if one["state"] != "ready" and not one["state"].startswith("blocked")
    ]
    if not installed_plugins():
        found.append("no plugin is installed: pip install -e '.[all]' in the checkout")
    if free < LOW_DISK:
        found.append(f"the disk of {home} has {free / 1e9:.1f} GB left: set FASTSERVE_HOME to another one")
    if available_memory() < LOW_MEMORY:
        found.append(f"only {available_memory() / 1e9:.1f} GB of memory are available")
    for name in THREAD_VARIABLES:
        if int(os.environ.get(name) or 0) > usable_cores():
            found.append(f"{name}={os.environ[name]} asks for more threads than the {usable_cores()} usable cores")
    return found


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The instruction sets that decide how fast a model runs, as far as this CPU has them."""
    try:
        flags = set(cpuinfo.read_text().split())
    except OSError:
        return []
    return [name for name in FEATURES if name in flags]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
