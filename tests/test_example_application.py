"""The examples of applications: their own tests pass, and the data and the replies of one fit each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fastserve_core.config import DataOptions
from fastserve_data.files import Files

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
EXAMPLE = EXAMPLES / "fastserve-customer-service"


@pytest.mark.slow
@pytest.mark.parametrize("example", ["fastserve-customer-service", "fastserve-assistant"])
def test_its_own_tests_pass(example: str, tmp_path: Path) -> None:
    folder = EXAMPLES / example
    paths = [str(folder / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "tests")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_each_intent_has_a_reply_and_each_slot_is_learnt() -> None:
    options = DataOptions(train=str(EXAMPLE / "nlu.yml"), validation=str(EXAMPLE / "validation.yml"))
    splits = {split: list(records) for split, records in Files().read(options, Path(), print).items()}
    assert all(record.values is not None for records in splits.values() for record in records)
    rows, others = ([record.values or {} for record in splits[split]] for split in ("train", "validation"))
    replies = yaml.safe_load((EXAMPLE / "replies.yml").read_text(encoding="utf-8"))["intents"]
    assert {row["intent"] for row in rows} == set(replies)
    assert {row["intent"] for row in others} == {*replies, "oos"}
    assert not {row["text"] for row in rows} & {row["text"] for row in others}
    needed = {slot for reply in replies.values() for slot in reply.get("needs", {})}
    assert needed <= {slot["slot"] for row in rows for slot in row["slots"]}
