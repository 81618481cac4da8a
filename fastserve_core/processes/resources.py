"""Resources of this machine that a process may use: cores, threads and memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

WAIT_POLICY_ENV = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""Makes waiting OpenMP threads sleep early. By default they spin, and if another process uses a core, the thread that
has work cannot run. Measured for a training step of MiniLM: beside a busy process 3.5 s by default and 0.5 s with these
values, on an idle machine 0.25 s with either."""

HUGE_PAGES_ENV = {
    "THP_MEM_ALLOC_ENABLE": "1",  # torch's allocator, tensors of some megabytes
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # the smaller ones; other C libraries ignore it
}
"""Places tensors in large pages: saves 5 to 10 % of a training step on a CPU, for up to 20 MB of memory per process."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")

MEMBERSHIP = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_V2 = ("memory.max", "memory.current", ("active_file", "inactive_file"))
CGROUP_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))
"""Files with a group's limit and usage, and the entries of its ``memory.stat`` that are page cache."""


def usable_cores(cgroup: Path = CGROUP_ROOT, membership: Path = MEMBERSHIP) -> int:
    """Return the number of cores that this process may use; at least 1.

    This is the minimum of the cores of the process's affinity and the CPU quota, rounded down, of each cgroup (v1 or
    v2) that the process is in.

    Args:
        cgroup: Mount point of cgroups.
        membership: The cgroups of the process, as Linux reports them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (_cpu_quota(folder, version) for folder, version in _list_groups(cgroup, membership, "cpu"))
    return max(1, min([cores, *(math.floor(quota) for quota in quotas if quota is not None)]))


def _cpu_quota(folder: Path, version: int) -> float | None:
    """Number of cores' time that one cgroup may use; nothing if it does not exist or has no quota."""
    try:
        if version == 1:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        else:
            quota, period = (folder / "cpu.max").read_text().split()
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # v2 reports "max" if there is no quota
        return None
    return cores if cores >= 0 else None  # v1 reports -1


def threads_per_process(processes: int = 1) -> int:
    """Return the number of threads for each of so many processes; at least 1."""
    return max(1, usable_cores() // max(1, processes))


def thread_environment(threads: int) -> dict[str, str]:
    """Return environment variables for a child process that may use so many threads.

    More threads than cores are 10 to 70 times slower, so the variable of every library is set, and the tokenizer's
    thread pool is limited to the same number. Variables for large pages keep the values that they have.
    """
    pages = {name: os.environ.get(name, value) for name, value in HUGE_PAGES_ENV.items()}
    return {name: str(threads) for name in THREAD_VARIABLES} | WAIT_POLICY_ENV | pages


def available_memory(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = CGROUP_ROOT, membership: Path = MEMBERSHIP
) -> int:
    """Return the memory that this process can still allocate without swapping or being killed.

    This is the minimum of the machine's available memory and the remainder of the limit of each cgroup (v1 or v2)
    that the process is in. Page cache does not count as used, because the kernel reclaims it.

    Args:
        meminfo: The machine's memory, as Linux reports it.
        cgroup: Mount point of cgroups.
        membership: The cgroups of the process, as Linux reports them.

    Returns:
        Number of bytes; on systems without ``meminfo`` the size of the physical memory.
    """
    return max(0, min([_machine_memory(meminfo), *_cgroup_memory(cgroup, membership)]))


def _machine_memory(meminfo: Path) -> int:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_memory(cgroup: Path, membership: Path) -> Iterator[int]:
    """Remaining bytes of the process's memory cgroups and all their ancestors."""
    for folder, version in _list_groups(cgroup, membership, "memory"):
        yield from _remaining(folder, *(CGROUP_V1 if version == 1 else CGROUP_V2))


def _list_groups(cgroup: Path, membership: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Folders of the process's cgroups for a controller and of all their ancestors, with their version."""
    paths = {"": "/", controller: "/"}  # a container may see its own group as the root
    try:
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths.update(dict.fromkeys(controllers.split(","), path))
    except (OSError, ValueError):
        pass  # not Linux
    for root, path, version in (
        (cgroup, paths[""], 2),
        (cgroup / "unified", paths[""], 2),
        (cgroup / controller, paths[controller], 1),
    ):
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            yield folder, version


def _remaining(folder: Path, limit_file: str, usage_file: str, cache_entries: tuple[str, ...]) -> Iterator[int]:
    """Remaining bytes of one cgroup; nothing if it does not exist or has no limit."""
    try:
        limit, usage = int((folder / limit_file).read_text()), int((folder / usage_file).read_text())
    except (OSError, ValueError):  # v2 reports "max" if there is no limit
        return
    try:
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cache = sum(int(statistics.get(name, 0)) for name in cache_entries)
    except (OSError, ValueError):
        cache = 0
    yield limit - max(0, usage - cache)
