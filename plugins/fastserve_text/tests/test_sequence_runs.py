"""Runs of the tasks with several labels and with numbers: trained, distilled, read by transformers, exported."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from conftest import Cli, review
from fastserve_core import FastServe
from fastserve_core.artifacts import load_artifact
from fastserve_core.inference import Predictor

TOPICS = {"sport": "the match was won", "money": "prices fell", "film": "a moving film"}
TRAINING = ("train.torch_ddp.lr=0.005", "train.torch_ddp.epochs=4", "train.torch_ddp.nproc=1", "gate.enabled=false")

pytestmark = pytest.mark.slow(30)


def write_rows(path: Path, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([columns, *rows])
    return path


def run(cli: Cli, folder: Path, *arguments: object) -> dict[str, Any]:
    done = cli(*arguments, *TRAINING)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("outputs/*/*/run.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def pipeline_scores(artifact: str, text: Any) -> dict[str, float]:
    """The scores of transformers' own pipeline."""
    from transformers import pipeline

    classify: Any = pipeline("text-classification", model=artifact, device="cpu")
    return {found["label"]: found["score"] for found in classify(text, top_k=None)}


def test_several_labels_are_learnt_distilled_and_answered(cli: Cli, tmp_path: Path, tiny_bert: Path) -> None:
    chosen = [[name for place, name in enumerate(TOPICS) if number >> place & 1] for number in range(8)] * 30
    rows = [
        (f"{number} says: {' and '.join(TOPICS[name] for name in names)}", *(int(name in names) for name in TOPICS))
        for number, names in enumerate(chosen)
    ]
    path = write_rows(tmp_path / "rows.csv", ("text", *TOPICS), rows)
    record = run(
        cli, tmp_path, "+plugin=[torch_ddp,distill]", "task=multi_label_classification", f"model={tiny_bert}",
        f"data.train={path}", "data.columns.labels=[sport,money,film]", "compress.distill.epochs=1",
        "train.torch_ddp.class_weights=balanced", "task.metric=macro_f1",
    )  # fmt: skip
    assert next(iter(record["metrics"])) == "macro_f1"
    trained, student = record["stages"]
    assert min(stage["measures"]["quality"]["macro_f1"] for stage in (trained, student)) > 0.7
    assert {"ece", "ece_uncalibrated", "micro_f1", "samples_f1"} <= student["measures"]["quality"].keys()
    artifact = load_artifact(Path(student["artifact"]))
    predictor = Predictor(artifact, threads=1)
    (answer,) = predictor.predict(f"1 says: {TOPICS['film']}")
    (raw,) = predictor.predict(f"1 says: {TOPICS['film']}", parameters={"function_to_apply": "none"})
    assert [found["label"] for found in answer["labels"]] == ["film"]
    assert "multi_label_classification" in (artifact.folder / "config.json").read_text()
    metadata = FastServe.load(artifact.folder, show=False).export(tmp_path / "onnx", check=2).metadata
    assert len(metadata["calibration"]["thresholds"]) == 3 and metadata["calibration"]["temperature"] > 0
    expected = pipeline_scores(str(artifact.folder), f"1 says: {TOPICS['film']}")
    logits = {name: 1 / (1 + 2.718281828**-value) for name, value in raw["scores"].items()}
    assert logits == pytest.approx(expected, abs=1e-4)
    line = cli("predict", artifact.folder, f"2 says: {TOPICS['sport']}").stdout
    assert "sport 0." in line.split("\t")[0]


def test_numbers_of_pairs_at_any_scale_are_learnt_distilled_and_exported(
    cli: Cli, tmp_path: Path, tiny_bert: Path
) -> None:
    draw = random.Random(0)
    rows = []
    for _ in range(240):
        text, label = review(draw)
        rows.append((text, "a pair", draw.gauss(251_000 if label == "positive" else 249_000, 50)))
    path = write_rows(tmp_path / "rows.csv", ("sentence1", "sentence2", "similarity"), rows)
    record = run(
        cli, tmp_path, "+plugin=[torch_ddp,distill]", "task=text_regression", f"model={tiny_bert}",
        f"data.train={path}", "compress.distill.epochs=1", "train.torch_ddp.batch_size=16",
        "task.metric=rmse",
    )  # fmt: skip
    for stage in record["stages"]:
        assert stage["measures"]["quality"]["rmse"] < 600  # the deviation is 1000
    artifact = record["stages"][-1]["artifact"]
    pair = {"text": rows[3][0], "text_pair": "a pair"}
    fs = FastServe.load(artifact, show=False)
    (answer,) = fs.predict([pair])
    assert abs(answer["score"] - rows[3][2]) < 1500
    assert pipeline_scores(artifact, pair) == {"score": pytest.approx(answer["score"], rel=1e-5)}
    assert fs.export(tmp_path / "onnx", check=4).metadata["check"]["difference"] < 1e-3
