"""A run from scratch: trained, distilled with a shallower decoder, quantized, answered, and loaded by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Cli
from fastserve_core.artifacts import load_artifact
from fastserve_core.inference import Predictor

COLOURS, THINGS = ["red", "green", "blue", "black"], ["chair", "table", "lamp", "door"]
MODEL = ("model=bert", "model.dim=32", "model.num_heads=2", "model.num_layers=2", "model.hidden_size=64",
         "model.vocab_size=200", "model.max_positions=32")  # fmt: skip
LENGTHS = ("task.max_length=16", "task.max_target_length=8", "task.max_new_tokens=8")

pytestmark = pytest.mark.slow(60)


def test_a_run_trains_distils_and_quantizes_a_writer(cli: Cli, tmp_path: Path) -> None:
    pairs = [(colour, thing) for colour in COLOURS for thing in THINGS]
    rows = [
        {"document": [f"Number {number}.", f"A {colour} {thing}."], "summary": [f"{thing} {colour}"]}
        for number in range(20)
        for colour, thing in pairs
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = cli(
        "+plugin=[torch_ddp,distill,neural_compressor]", "task=seq2seq", *MODEL, *LENGTHS, f"data.train={path}",
        "train.torch_ddp.lr=0.004", "train.torch_ddp.epochs=10", "train.torch_ddp.batch_size=16",
        "train.torch_ddp.nproc=1", "gate.enabled=false",
        "compress.distill.layers=1", "compress.distill.hidden_weight=0", "compress.distill.epochs=3",
        "compress.neural_compressor.group_size=32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "column 'document' is read as text" in done.stderr and "validation rougeL" in done.stdout
    (record_path,) = tmp_path.glob("outputs/*/*/run.json")
    record: dict[str, Any] = json.loads(record_path.read_text())
    scores = [stage["measures"]["quality"]["rougeL"] for stage in record["stages"]]
    assert min(scores) > 0.3, scores  # one of two words by chance is a quarter
    trained, student, quantized = (load_artifact(Path(stage["artifact"])) for stage in record["stages"])
    answers = [Predictor(artifact, 1).predict("Number 3. A blue lamp.") for artifact in (trained, student, quantized)]
    assert all(answer["text"] for (answer,) in answers)
    assert json.loads((student.folder / "config.json").read_text())["decoder"]["num_hidden_layers"] == 1

    from transformers import AutoTokenizer, EncoderDecoderModel

    model, tokenizer = (kind.from_pretrained(trained.folder) for kind in (EncoderDecoderModel, AutoTokenizer))
    ids = tokenizer("Number 3. A blue lamp.", return_tensors="pt").input_ids
    assert tokenizer.decode(model.generate(ids, max_new_tokens=8)[0], skip_special_tokens=True) == answers[0][0]["text"]
