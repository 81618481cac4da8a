"""Whole runs of the task on small files, and files that stop one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastserve_core.tasks import read_calibration

CITIES = ["Boston", "Oslo", "New York", "Rome"]
Cli = Callable[..., Any]


def make_row(number: int) -> dict[str, Any]:
    city = random.Random(number).choice(CITIES)
    if number % 3 == 0:
        return {"text": f"{number} bye", "intent": "None", "slots": []}
    start = "fly me to " if number % 3 == 1 else "weather in "
    slots = [{"slot": "city", "start": len(start), "end": len(start) + len(city)}]
    return {"text": f"{start}{city} now {number}", "intent": "book" if number % 3 == 1 else "weather", "slots": slots}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.slow(40)
def test_a_run_is_trained_calibrated_predicted_and_exported(cli: Cli, tiny_bert: Path, tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", [make_row(number) for number in range(150)])
    outside = [{"text": f"a joke about {number} cats", "intent": "oos", "slots": []} for number in range(12)]
    strange = {"text": "to Rome", "intent": "return", "slots": []}
    test = write_rows(tmp_path / "test.jsonl", [*(make_row(number) for number in range(500, 530)), *outside, strange])
    done = cli(
        "+plugin=torch_ddp", "task=joint_intent_slots", "task.out_of_scope=mahalanobis", f"model={tiny_bert}",
        f"data.train={train}", f"data.validation={test}", f"data.test={test}", "train.torch_ddp.epochs=15",
        "train.torch_ddp.lr=5e-3", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 rows of the validation split have labels that are not in train, and count as errors" in done.stderr
    stage = json.loads((tmp_path / "run" / "run.json").read_text())["stages"][0]
    scores = stage["measures"]["quality"]
    assert set(scores) == {"whole", "intent", "slot_f1", "in_scope", "oos_recall", "open_f1", "auroc", "fpr95"}
    assert scores["intent"] > 0.6
    calibration = read_calibration(Path(stage["artifact"]))
    assert calibration["method"] == "mahalanobis"
    predicted = cli("predict", "run", "--json", "fly me to New York now")
    answer = json.loads(predicted.stdout)
    assert {"intent", "intents", "in_scope", "slots"} <= set(answer)
    exported = cli("export", "--to", "onnx", "run", "onnx")
    assert exported.returncode == 0, exported.stderr
    described = json.loads((tmp_path / "onnx" / "export.json").read_text())["calibration"]
    assert described["threshold"] == pytest.approx(float(calibration["threshold"]))
    assert described["whitening"] == "calibration.npz"  # a matrix has a file of its own
    assert (read_calibration(tmp_path / "onnx")["whitening"] == calibration["whitening"]).all()


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("name", "content", "messages"),
    [
        ("nlu.yml", "nlu:\n- intent: a\n  examples: |\n    - b\n   - c\n", ["nlu.yml:5: not valid YAML"]),
        (
            "nlu.yml",
            "nlu:\n- intent: a\n  examples: |\n    - to [Rome](city\n",
            ["nlu.yml:4: a mark of a slot is broken"],
        ),
        ("x.conll", "# intent: a\nfly O\nto\n\n", ["x.conll:2: word 2 has 1 columns, not 2"]),
        ("x.jsonl", '{"text": "a b", "intent": "x", "tags": ["O"]}\n', ["x.jsonl:1: 2 tokens but 1 tags"]),
        (
            "x.jsonl",
            '{"text": "a", "intent": "oos"}\n{"text": "b", "intent": "oos"}\n',
            ["all 2 training rows are out of"],
        ),
        ("x.csv", "text,kind\na,b\n", ["x.csv", "no column 'intent'", "data.columns.intent=NAME selects one"]),
    ],
)
def test_files_that_cannot_be_used_are_named_with_their_lines(
    cli: Cli, tiny_bert: Path, tmp_path: Path, name: str, content: str, messages: list[str]
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    done = cli("+plugin=torch_ddp", "task=joint_intent_slots", f"model={tiny_bert}", f"data.train={tmp_path / name}")
    assert done.returncode == 2
    assert all(message in done.stderr for message in messages), done.stderr
