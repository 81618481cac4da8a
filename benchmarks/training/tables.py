"""What is printed: Markdown tables, and on which machine they were measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastserve_core.processes import usable_cores

PACKAGES = ("torch", "transformers", "accelerate", "peft")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(one) for one in line) + " |" for line in lines)


def machine() -> str:
    """Processor, cores and versions in one line."""
    found = [f"{name} {installed}" for name in PACKAGES if (installed := _version(name))]
    return f"{usable_cores()} cores of {_processor()}; {', '.join(found)}"


def load_average() -> float:
    """How many processes wanted a core during the last minute."""
    return round(os.getloadavg()[0], 2)


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f}"


def plus_minus(values: tuple[float, float]) -> str:
    return f"{values[0]:.1f} ± {values[1]:.1f}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
