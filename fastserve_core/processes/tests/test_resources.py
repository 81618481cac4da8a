"""Cores that a process may use, by affinity and quota, and its threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastserve_core.processes.resources import thread_environment, threads_per_process, usable_cores


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("nonsense", 4)],
)
def test_a_containers_quota_cuts_the_cores(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_cores(tmp_path) == cores
    assert usable_cores(tmp_path / "none") == 4


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastserve_core.processes.resources.usable_cores", lambda: 8)
    assert [threads_per_process(count) for count in (0, 1, 3, 8, 20)] == [8, 8, 2, 1, 1]
    assert thread_environment(3)["OMP_NUM_THREADS"] == thread_environment(3)["RAYON_NUM_THREADS"] == "3"
