"""Whether pretraining pays: a small Chinese BERT from scratch, with and without masked LM and next sentence first."""

from __future__ import annotations

import csv
import random
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastserve_core.config import DataOptions, ModelSpec
from fastserve_core.data import Dataset, prepare_dataset
from fastserve_core.models import resolve_model
from fastserve_core.processes import run_in_child
from fastserve_core.tasks import Row, load_task
from fastserve_torch_ddp.options import DDPOptions
from training.runs import Outcome, fresh, in_turn, ours
from training.tables import table
from training.workload import Bench, Workload

SPEC = ModelSpec("scratch", "bert", dim=128, num_heads=4, num_layers=2, hidden_size=512, vocab_size=6000)
LABELLED, HELD_OUT, LENGTH = 4000, 2000, 64
PRETRAIN = {"epochs": 15, "batch_size": 64, "lr": 2e-3, "weight_decay": 0.01}
FINE_TUNE = {"epochs": 5, "batch_size": 32, "lr": 5e-4}


def pretraining(bench: Bench) -> dict[str, Any]:
    """Both start from the same shape and tokenizer, and learn the labelled task from the same rows."""
    corpus, labelled = _split(bench)
    scratch = resolve_model(SPEC, corpus.task, corpus.data, bench.store, seed=0).folder
    pretrained, measured = _pretrain(bench, scratch, corpus.data)
    random_weights = _with_random_weights(bench, scratch)
    runs = {
        name: ours(bench, Workload(folder, labelled, "text_classification", {"max_length": LENGTH}), **FINE_TUNE)
        for name, folder in (("from random weights", random_weights), ("pretrained", pretrained))
    }
    found = in_turn("pretraining", runs, bench.seeds or (0, 1, 2))
    scores = ", ".join(f"{name} {value:.3f}" for name, value in measured["scores"].items())
    print(f"{corpus.rows} reviews pretrained on for {PRETRAIN['epochs']} epochs, {measured['seconds']:.0f} s: {scores}")
    print(f"{labelled.counts['train']} labelled reviews, {labelled.counts['validation']} to measure on\n")
    print(table(["start", "accuracy %", "each seed"], [_line(name, outcomes) for name, outcomes in found.items()]))
    means = {name: statistics.mean(one.accuracy for one in outcomes) for name, outcomes in found.items()}
    return {
        "pretraining": means,
        "pretraining_gain": round(100 * (means["pretrained"] - means["from random weights"]), 2),
    }


def _line(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    each = [100 * one.accuracy for one in outcomes]
    spread = statistics.stdev(each) if len(each) > 1 else 0.0
    return [name, f"{statistics.mean(each):.1f} ± {spread:.1f}", ", ".join(f"{one:.1f}" for one in each)]


def _split(bench: Bench) -> tuple[Workload, Dataset]:
    """The corpus, and the rows with labels: their texts are in the corpus, those that are measured on are not."""
    task = load_task("text_classification", {"max_length": LENGTH})
    data = prepare_dataset(DataOptions(source="demo", name="chinese_reviews"), task, bench.store, print)
    rows: list[Row] = [row for split in ("train", "validation", "test") for row in data.rows(split)]
    random.Random(0).shuffle(rows)
    held, rest = rows[:HELD_OUT], rows[HELD_OUT:]
    few = rest[:LABELLED]
    files = {name: _write(bench.scratch / f"{name}.csv", part) for name, part in (("few", few), ("held", held))}
    labelled = prepare_dataset(
        DataOptions(train=files["few"], validation=files["held"], test=files["held"]), task, bench.store, print
    )
    learns = load_task("pretraining", {"max_length": LENGTH})
    texts = DataOptions(train=_write(bench.scratch / "corpus.csv", rest))
    prepared = prepare_dataset(texts, learns, bench.store, print)
    return Workload(bench.scratch, prepared, "pretraining", {"max_length": LENGTH}), labelled


def _write(path: Path, rows: Sequence[Row]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def _pretrain(bench: Bench, scratch: Path, data: Dataset) -> tuple[Path, dict[str, Any]]:
    folder = fresh(bench.scratch / "pretrained")
    request = {
        "model": scratch,
        "data": data.folder,
        "task": ["pretraining", {"max_length": LENGTH}, []],
        "folder": folder,
        "options": asdict(DDPOptions(**PRETRAIN)),
        "steps": None,
        "seed": 0,
        "cores": bench.cores,
    }
    result = run_in_child("fastserve_torch_ddp.launch", request, bench.cores)
    return folder / "draft", result


def _with_random_weights(bench: Bench, scratch: Path) -> Path:
    import torch
    import transformers

    torch.manual_seed(0)
    folder = fresh(bench.scratch / "random")
    config = transformers.AutoConfig.from_pretrained(scratch)
    transformers.AutoModelForPreTraining.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(scratch / name, folder / name)
    return folder
