"""``fastserve doctor``: the capabilities of this machine and installation, and their problems."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastserve_core.artifacts.store import default_home
from fastserve_core.cli.arguments import format_table, make_parser
from fastserve_core.cli.plugins import describe
from fastserve_core.entry_points import DISTRIBUTION, installed_plugins
from fastserve_core.processes.resources import THREAD_VARIABLES, available_memory, usable_cores

PACKAGES = (DISTRIBUTION, "hydra-core", "pluggy", "torch", "transformers", "nevergrad", "neural-compressor",
            "openvino", "ray", "starlette")  # fmt: skip
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
LOW_DISK, LOW_MEMORY = 3e9, 2e9


def main(arguments: Sequence[str]) -> int:
    """Print the facts and problems; return 0 without problems, else 1."""
    make_parser("doctor", "Check this machine and this installation.").parse_intermixed_args(arguments)
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
    print(format_table([["name", "value"], *facts]))
    problems = find_problems(home, free)
    print("\n" + "\n".join(f"! {problem}" for problem in problems) if problems else "\nNo problems.")
    return 1 if problems else 0


def find_problems(home: Path, free: float) -> list[str]:
    """List problems that would make a run fail or slow, each with a remedy.

    Args:
        home: The folder of the store.
        free: Free bytes on its disk.
    """
    problems = [
        f"plugin {plugin['name']}: {plugin['state']}"
        for plugin in map(describe, installed_plugins().values())
        if plugin["state"] != "ready" and not plugin["state"].startswith("blocked")
    ]
    if not installed_plugins():
        problems.append("no plugin is installed: pip install -e '.[all]' in the checkout")
    if free < LOW_DISK:
        problems.append(f"the disk of {home} has {free / 1e9:.1f} GB left: set FASTSERVE_HOME to another one")
    if available_memory() < LOW_MEMORY:
        problems.append(f"only {available_memory() / 1e9:.1f} GB of memory are available")
    for name in THREAD_VARIABLES:
        if int(os.environ.get(name) or 0) > usable_cores():
            problems.append(f"{name}={os.environ[name]} is more than the {usable_cores()} usable cores")
    return problems


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """List the instruction sets of this CPU that speed up models; empty if they are not known."""
    try:
        flags = set(cpuinfo.read_text().split())
    except OSError:
        return []
    return [name for name in CPU_FEATURES if name in flags]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
