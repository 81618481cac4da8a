"""Successive halving with real trainings: the better ones go on from their checkpoints, and the screen says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from conftest import Cli
from fastserve_nevergrad.study_log import read_log


@pytest.mark.slow
def test_trials_continue_from_their_checkpoints(cli: Cli, tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    done = cli(
        *("+plugin=[nevergrad,torch_ddp]", f"model={tiny_bert}", f"data={reviews}", "train.torch_ddp.batch_size=16"),
        *("tune.nevergrad.trials=4", "tune.nevergrad.trial_steps=45", "tune.nevergrad.min_resource=15"),
        "tune.nevergrad.space={train.torch_ddp.lr: {log: [1e-4, 1e-2]}}",
        *("train.torch_ddp.epochs=4", "hydra.run.dir=outputs/one"),
    )
    assert done.returncode == 0, done.stderr
    said = re.findall(r"^trial (\d)/4: score \S+ after (\d+) steps", done.stdout, re.MULTILINE)
    assert [pair for pair in said if pair[0] == "1"] == [("1", "15"), ("1", "45")]
    assert [steps for _, steps in said].count("15") == 4
    assert [steps for _, steps in said].count("45") == 2
    record = json.loads((tmp_path / "outputs" / "one" / "run.json").read_text())
    tuned = record["stages"][0]
    assert [trial["number"] for trial in tuned["trials"]] == list(range(4))
    assert [steps for steps, _ in tuned["trials"][0]["curve"]] == [15, 45]
    assert "The score of each trial over its steps" in (tmp_path / "outputs" / "one" / "report.html").read_text()
    kept = Path(tuned["artifact"])
    log = read_log(kept / "trials.jsonl")
    assert {line["steps"] for line in log if line["rung"] == 1} == {45}
    best = max((line for line in log if line["rung"] == 1), key=lambda line: line["objective"])
    assert record["stages"][1]["options"]["lr"] == best["options"]["train.torch_ddp.lr"]
    assert not list(kept.rglob("*.safetensors")), "nothing of the trials is kept"
    assert re.search(r"nevergrad \(4 trials, best [0-9.]+\) > torch_ddp", cli("runs").stdout)
