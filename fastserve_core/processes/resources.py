"""What the machine has for us: cores, threads a process (= usable cores / processes), memory and its pages."""

from __future__ import annotations

import math
import os
from pathlib import Path

WAIT_POLICY_ENV = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""OpenMP threads that wait go to sleep soon. By default they spin, and where another process uses a core the
one that has the work cannot run. Seen for a training step of MiniLM: beside a busy process 3.5 s by default and
0.5 s with this, on a calm machine 0.25 s with either."""

HUGE_PAGES_ENV = {
    "THP_MEM_ALLOC_ENABLE": "1",  # torch's allocator, tensors of some megabytes
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # the smaller ones; other C libraries ignore it
}
"""Tensors in large pages save 5 to 10 % of a training step on a CPU, for up to 20 MB of memory more a process."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its affinity, cut by the container's CPU quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, math.floor(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no cgroup v2, or no quota in it
    return cores


def threads_per_process(processes: int = 1) -> int:
    """How many threads each of that many processes may start; at least one."""
    return max(1, usable_cores() // max(1, processes))


def thread_environment(threads: int) -> dict[str, str]:
    """Environment for a child process that may use that many threads; what of its pages is already set stays.

    Threads that outnumber the cores cost 10 to 70 times, so every library's own variable is set, and the
    tokenizer's pool is held to the same number.
    """
    pages = {name: os.environ.get(name, value) for name, value in HUGE_PAGES_ENV.items()}
    return {name: str(threads) for name in THREAD_VARIABLES} | WAIT_POLICY_ENV | pages


def available_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that this process may still take: what the machine has free, cut by the container's limit."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return available if limit == "max" else min(available, int(limit) - int(used))
    except (OSError, ValueError):
        return available
