"""Studies with real trainings: folds that leave the test split alone, and several trials at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from conftest import Cli

TUNED = "+plugin=[nevergrad,torch_ddp]"
SMALL = ("train.torch_ddp.batch_size=16", "train.torch_ddp.epochs=1", "tune.nevergrad.trial_steps=3")
SPACE = "tune.nevergrad.space={train.torch_ddp.lr: {log: [1e-4, 1e-2]}}"


@pytest.mark.slow
def test_folds_and_trials_at_once_and_halved(cli: Cli, tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    done = cli(
        *(TUNED, f"model={tiny_bert}", f"data={reviews}", *SMALL, SPACE, "hydra.run.dir=run"),
        *("tune.nevergrad.trials=3", "tune.nevergrad.folds=2", "tune.nevergrad.workers=2"),
        "tune.nevergrad.min_resource=1",
    )
    assert done.returncode == 0, done.stderr
    told = re.findall(r"^trial (\d)/3: score \S+ after (\d) steps", done.stdout, re.MULTILINE)
    assert sorted(number for number, steps in told if steps == "1") == ["1", "2", "3"]
    further = [number for number, steps in told if steps == "3"]
    assert len(further) == 2 and "1" in further, "the options as they are, and the best third"
    tuned = json.loads((tmp_path / "run" / "run.json").read_text())["stages"][0]
    assert [len(trial["each"]) for trial in tuned["trials"]] == [2, 2, 2]
    store = Path(tuned["artifact"]).parent
    folds = [json.loads(path.read_text()) for path in store.glob("data-fold-*/data.json")]
    (whole,) = (json.loads(path.read_text())["counts"] for path in store.glob("data-files-*/data.json"))
    rows = whole["train"] + whole["validation"]
    assert sorted(fold["counts"]["validation"] for fold in folds) == [rows // 2, rows - rows // 2]
    assert all(fold["counts"]["train"] + fold["counts"]["validation"] == rows for fold in folds)
    assert {fold["counts"]["test"] for fold in folds} == {0}
    parts = [path.read_text().splitlines() for path in store.glob("data-fold-*/validation.jsonl")]
    assert len({line for part in parts for line in part}) == sum(map(len, parts)), "each row is scored once"
    (test,) = (path.read_text().splitlines() for path in store.glob("data-files-*/test.jsonl"))
    assert not {line for part in parts for line in part} & set(test)


def test_more_folds_than_rows_are_refused(cli: Cli, tiny_bert: Path, reviews: Path) -> None:
    done = cli(TUNED, f"model={tiny_bert}", f"data={reviews}", *SMALL, SPACE, "tune.nevergrad.folds=100000")
    assert done.returncode == 2
    assert re.search(r"100000 folds need at least as many rows, and train and validation have \d+", done.stderr)
