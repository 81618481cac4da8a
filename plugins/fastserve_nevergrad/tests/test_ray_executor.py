"""Trials on the machines of a Ray cluster: two nodes, each with a trial at a time, and one of them dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastserve_core.errors import StageError
from fastserve_core.pipeline import run_remote_trial
from fastserve_nevergrad.ray_executor import ray_executor

TWO_NODES = """
import os, subprocess, sys, time
import psutil
from ray.cluster_utils import Cluster

here = {"node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **here})
second = cluster.add_node(num_cpus=1, **here)
os.environ["RAY_ADDRESS"] = cluster.address
raylet = psutil.Process(second.all_processes["raylet"][0].process.pid)
search = subprocess.Popen([sys.executable, "-m", "fastserve_core", *sys.argv[1:]])
trials = []
while not trials and search.poll() is None:
    time.sleep(0.05)
    children = raylet.children()
    trials = [child for child in children if any("ray::run_remote_trial" in word for word in child.cmdline())]
inside = [process for trial in trials for process in trial.children(recursive=True)]
cluster.remove_node(second, allow_graceful=False)
code = search.wait()
print("killed under", len(trials), "trial; left:", [process.pid for process in inside if process.is_running()])
cluster.shutdown()
sys.exit(code)
"""


@pytest.mark.slow
def test_two_nodes_make_the_trials_and_none_is_lost_with_one_of_them(
    tmp_path: Path, tiny_bert: Path, reviews: Path
) -> None:
    command = [
        sys.executable, "-c", TWO_NODES, "+plugin=[nevergrad,torch_ddp]", f"model={tiny_bert}", f"data={reviews}",
        "engine=torch", "train.torch_ddp.batch_size=16", "train.torch_ddp.epochs=1", "tune.nevergrad.trial_steps=3",
        "tune.nevergrad.min_resource=1",
        "tune.nevergrad.trials=3", "tune.nevergrad.workers=ray", "hydra.run.dir=run",
        "tune.nevergrad.space={train.torch_ddp.lr: {log: [1e-4, 1e-2]}}",
    ]  # fmt: skip
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    tuned = json.loads((tmp_path / "run" / "run.json").read_text())["stages"][0]
    scores = [trial["score"] for trial in tuned["trials"]]
    assert len(scores) == 3 and None not in scores
    assert [steps for steps, _ in tuned["trials"][0]["curve"]] == [1, 3], "it went on from where it was"
    assert "Traceback" not in done.stderr
    assert "killed under 1 trial; left: []" in done.stdout


def test_a_machine_that_does_not_see_the_files_reports_it(tmp_path: Path) -> None:
    said = run_remote_trial({"model": str(tmp_path / "away"), "data": str(tmp_path), "folder": str(tmp_path)})
    assert "does not see" in said["error"] and "on a disk that all machines share" in said["error"]


def test_a_cluster_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(StageError, match=r"no Ray cluster answers at RAY_ADDRESS=127\.0\.0\.1:1"), ray_executor():
        pass
