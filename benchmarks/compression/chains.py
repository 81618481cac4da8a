"""The chains of compressors, run as a user runs them: the command line, a store, and what ``run.json`` says."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from compression.setting import Bench
from fastserve_core.artifacts import KEY_LENGTH, Store, load_artifact, read_json
from fastserve_core.config import DataOptions
from fastserve_core.entry_points import load_entry_point
from fastserve_core.errors import StageError

REVIEWS = ("data=movie_reviews",)
TRAIN = ("train.torch_ddp.epochs=3", "train.torch_ddp.lr=1e-4")
EXTRA_EPOCHS = 4
STACK = (
    "compress.prune.layers=[1,4]",
    "compress.prune.head_ratio=0.5",
    "compress.prune.neuron_ratio=0.6",
    "compress.vector_quantize.codebooks=fp16",
    "compress.distill.alpha=1.0",
    "compress.distill.augment=2",
    "compress.distill.quantize_aware=int8",
    f"compress.distill.epochs={EXTRA_EPOCHS}",
    "compress.distill.lr=2e-4",
)
UNLABELLED = "compress.distill.unlabelled"
CONTROL = (f"compress.distill.epochs={EXTRA_EPOCHS}", "compress.distill.lr=1e-4")
CHAINS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "int8": ("torch_ddp,neural_compressor", ()),
    "stack": ("torch_ddp,prune,vector_quantize,distill,neural_compressor", STACK),
    "control": ("torch_ddp,distill", CONTROL),
}
"""The control is not pruned, and is taught for as many epochs as the pruned model, on the labelled rows."""


@dataclass(frozen=True)
class Made:
    """A chain's original and its end: their folders, sizes in bytes, and the score over all held-out rows."""

    original: Path
    result: Path
    sizes: tuple[int, int]
    qualities: tuple[float, float]
    stages: tuple[tuple[str, float, int], ...]

    @property
    def size_ratio(self) -> float:
        return self.sizes[0] / self.sizes[1]

    @property
    def drop(self) -> float:
        """In points."""
        return 100 * (self.qualities[0] - self.qualities[1])


def make(bench: Bench, name: str, seed: int, source: Sequence[str] = REVIEWS, score: str = "accuracy") -> Made:
    """Run one chain; what an earlier run left in the store is reused. The gate is off: the table says what came out."""
    plugins, options = CHAINS[name]
    folder = bench.scratch / f"{name}-{seed}"
    given = [*source, "engine=openvino", "gate.enabled=false", *TRAIN, *options]
    if name == "stack" and source == REVIEWS:
        given.append(f"{UNLABELLED}={more_texts(bench)}")
    if bench.rows is not None:
        given.append(f"data.max_rows={bench.rows}")
    if bench.epochs is not None:
        given += [
            f"{one.partition('=')[0]}={bench.epochs}" for one in given if one.partition("=")[0].endswith(".epochs")
        ]
    fastserve(bench, f"+plugin=[{plugins}]", *given, f"seed={seed}", f"hydra.run.dir={folder}")
    record = read_json(folder / "run.json")
    measured = [one for one in record["stages"] if one["measures"]]
    scores = [held_out(one["measures"], record["data"]["rows"], score) for one in measured]
    sizes = [one["measures"]["size_bytes"] for one in measured]
    names = [one["plugin"] for one in measured]
    first, last = measured[0], measured[-1]
    return Made(
        Path(first["artifact"]), Path(last["artifact"]), (sizes[0], sizes[-1]), (scores[0], scores[-1]),
        tuple(zip(names, scores, sizes, strict=True)),
    )  # fmt: skip


def more_texts(bench: Bench) -> Path:
    """A file of texts like the reviews: product reviews, and movie reviews too neutral to be among the labelled."""
    path = bench.scratch / "texts.csv"
    labelled, every = (_texts(bench, "movie_reviews", neutral) for neutral in (0.5, 0.0))
    neutral = every.keys() - labelled.keys()
    texts = [*(one for one in every if one in neutral), *_texts(bench, "product_reviews", 0.0)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *([one] for one in texts)])
    return path


def _texts(bench: Bench, name: str, neutral: float) -> dict[str, None]:
    options = DataOptions(source="demo", name=name, options={"neutral": neutral})
    read = load_entry_point("fastserve.data", "demo")().read(options, Store(bench.home).downloads_dir, print)
    return {record.values["text"]: None for records in read.values() for record in records}


def fastserve(bench: Bench, *arguments: str) -> None:
    """The command line; raises ``StageError`` with the end of what it said."""
    environment = os.environ | {"FASTSERVE_HOME": str(bench.home)}
    command = [sys.executable, "-m", "fastserve_core", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise StageError(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")


def held_out(measures: Mapping[str, Any], rows: Mapping[str, int], score: str) -> float:
    """The score on the validation and the test rows together: twice as many say more."""
    parts = {"quality_validation": rows["validation"], "quality": rows["test"]}
    return sum(measures[name][score] * count for name, count in parts.items()) / sum(parts.values())


def data_of(bench: Bench, model: Path) -> Path:
    """The prepared splits that a model was trained on."""
    fingerprint = load_artifact(model).manifest.lineage[-1]["data"]
    return next(bench.home.glob(f"store/data-*-{fingerprint[:KEY_LENGTH]}"))


def figures(made: Sequence[Made], before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """One chain's keys of the last line; texts a second and milliseconds are torch's and ours."""
    return {
        "size_ratio": round(fmean(one.size_ratio for one in made), 2),
        "throughput_ratio": round(after["per_s"] / before["per_s"], 2),
        "latency_ratio": round(before["ms"] / after["ms"], 2),
        "quality_drop": round(fmean(one.drop for one in made), 2),
    }


def mean_and_spread(values: Sequence[float]) -> str:
    """``1.2 ± 0.3``: the mean and the standard deviation over seeds."""
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def chains(bench: Bench, names: Sequence[str] = tuple(CHAINS)) -> dict[str, list[Made]]:
    """Every chain with every seed."""
    found: dict[str, list[Made]] = {name: [] for name in names}
    for seed in bench.seeds:
        for name in names:
            found[name].append(make(bench, name, seed))
            made = found[name][-1]
            print(json.dumps({"chain": name, "seed": seed, "stages": made.stages}), flush=True)
    return found
