"""Cores that a process may use, by affinity and quota, and its threads."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from fastserve_core.processes.resources import CGROUP_ROOT, thread_environment, threads_per_process, usable_cores


@pytest.fixture(autouse=True)
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))


def write_quota(folder: Path, version: int, quota: str, period: str = "100000") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (folder / "cpu.max").write_text(f"{quota} {period}\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


def count(tmp_path: Path, membership: str) -> int:
    file = tmp_path / "membership"
    file.write_text(membership)
    return usable_cores(tmp_path / "cgroup", file)


ROOTS = {2: ("", "0::{}\n"), 1: ("cpu", "9:name=systemd:/\n4:cpu,cpuacct:{}\n0::/\n")}
"""By version: where the groups are mounted, and how the membership is reported."""


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("quota", "cores"),
    [("unlimited", 4), ("250000", 2), ("50000", 1), ("900000", 4), ("nonsense", 4), ("399999", 3), ("0", 1)],
)
def test_a_quota_limits_the_cores(quota: str, cores: int, version: int, tmp_path: Path) -> None:
    mount, membership = ROOTS[version]
    limit = {"unlimited": {1: "-1", 2: "max"}[version]}.get(quota, quota)
    write_quota(tmp_path / "cgroup" / mount / "job", version, limit)
    assert count(tmp_path, membership.format("/job")) == cores
    assert count(tmp_path, membership.format("/")) == 4
    assert usable_cores(tmp_path / "none", tmp_path / "none") == 4


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("outer", "inner", "cores"), [(2, 3, 2), (3, 2, 2), (9, 3, 3), (1, 9, 1)])
def test_the_tightest_ancestor_counts(outer: int, inner: int, cores: int, version: int, tmp_path: Path) -> None:
    mount, membership = ROOTS[version]
    write_quota(tmp_path / "cgroup" / mount / "pod", version, str(outer * 100_000))
    write_quota(tmp_path / "cgroup" / mount / "pod" / "job", version, str(inner * 50_000), "50000")
    assert count(tmp_path, membership.format("/pod/job")) == cores


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_sees_its_own_group_as_the_root(version: int, tmp_path: Path) -> None:
    mount, membership = ROOTS[version]
    write_quota(tmp_path / "cgroup" / mount, version, "200000")
    assert count(tmp_path, membership.format("/docker/0123abcd")) == 2


def test_a_process_in_a_real_group_with_a_quota_counts_its_cores() -> None:
    root, files = CGROUP_ROOT / "cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"}
    if not root.is_dir():
        root, files = CGROUP_ROOT, {"cpu.max": "100000 100000"}
    group = root / f"fastserve-{uuid.uuid4().hex[:8]}"
    code = (
        "import sys; from pathlib import Path; Path(sys.argv[1]).write_text('0'); "
        "from fastserve_core.processes.resources import usable_cores; print(usable_cores())"
    )
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"cannot create a cgroup: {error}")
    try:
        try:
            for name, value in files.items():
                (group / name).write_text(value)
        except OSError as error:
            pytest.skip(f"cannot limit the processor of a cgroup: {error}")
        command = [sys.executable, "-c", code, str(group / "cgroup.procs")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stdout == "1\n"
    finally:
        group.rmdir()


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastserve_core.processes.resources.usable_cores", lambda: 8)
    assert [threads_per_process(count) for count in (0, 1, 3, 8, 20)] == [8, 8, 2, 1, 1]
    assert thread_environment(3)["OMP_NUM_THREADS"] == thread_environment(3)["RAYON_NUM_THREADS"] == "3"
