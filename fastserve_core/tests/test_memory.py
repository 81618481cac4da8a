"""Available memory: the machine's, and what the limits of cgroups leave."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastserve_core.processes.resources import CGROUP_ROOT, available_memory

LIMIT = 200_000_000
MEASURE = """
import sys
from pathlib import Path
Path(sys.argv[1]).write_text("0")
from fastserve_core.processes.resources import available_memory
before = available_memory()
block = bytearray(b"x") * 100_000_000
print(before, available_memory())
"""


def write_group(folder: Path, limit: str, usage: int, cache: int = 0, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (limit, usage), strict=True):
        (folder / name).write_text(f"{value}\n")
    total = "" if version == 2 else "total_"
    statistics = f"anon 7\nshmem 5\n{total}inactive_file {cache - cache // 4}\n{total}active_file {cache // 4}\n"
    (folder / "memory.stat").write_text(statistics)


def measure(tmp_path: Path, membership: str) -> int:
    meminfo, file = tmp_path / "meminfo", tmp_path / "membership"
    meminfo.write_text("MemTotal:  9 kB\nMemAvailable:  2 kB\n")
    file.write_text(membership)
    return available_memory(meminfo, tmp_path / "cgroup", file)


@pytest.mark.parametrize(
    ("limit", "usage", "cache", "available"),
    [("max", 5, 0, 2048), ("1500", 500, 0, 1000), ("1500", 500, 400, 1400), ("9000", 500, 0, 2048), ("9", 20, 0, 0)],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_limit_reduces_the_memory(
    limit: str, usage: int, cache: int, available: int, version: int, tmp_path: Path
) -> None:
    root, membership = {
        1: (tmp_path / "cgroup" / "memory", "9:name=systemd:/\n4:cpu,memory:/job\n0::/\n"),
        2: (tmp_path / "cgroup", "0::/job\n"),
    }[version]
    unlimited = "9223372036854771712"  # of v1
    write_group(root / "job", unlimited if (limit, version) == ("max", 1) else limit, usage, cache, version)
    assert measure(tmp_path, membership) == available
    assert measure(tmp_path, "") == 2048


@pytest.mark.parametrize(("outer", "inner", "available"), [(1000, 1500, 600), (1500, 1000, 700), (2000, 900, 600)])
def test_the_tightest_ancestor_counts(outer: int, inner: int, available: int, tmp_path: Path) -> None:
    write_group(tmp_path / "cgroup" / "pod", str(outer), 400)
    write_group(tmp_path / "cgroup" / "pod" / "job", str(inner), 300)
    assert measure(tmp_path, "0::/pod/job\n") == available


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    write_group(tmp_path / "cgroup" / "memory", "1000", 400, version=1)
    assert measure(tmp_path, "4:memory:/docker/0123abcd\n") == 600


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """A real cgroup with a limit of ``LIMIT`` bytes."""
    root, file = (CGROUP_ROOT / "memory", "memory.limit_in_bytes")
    if not root.is_dir():
        root, file = CGROUP_ROOT, "memory.max"
    group = root / f"fastserve-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"cannot create a cgroup: {error}")
    try:
        try:
            (group / file).write_text(str(LIMIT))
        except OSError as error:
            pytest.skip(f"cannot limit the memory of a cgroup: {error}")
        yield group
    finally:
        group.rmdir()


def test_a_process_in_a_limited_cgroup_sees_its_limit(limited_group: Path) -> None:
    command = [sys.executable, "-c", MEASURE, str(limited_group / "cgroup.procs")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    before, after = map(int, output.split())
    assert LIMIT / 2 < before <= LIMIT
    assert before - after == pytest.approx(100_000_000, rel=0.2)
