"""Recommendations: our run against SASRec of RecTools on the same users, with popularity and item-kNN beside them."""

from __future__ import annotations

import importlib.util
import statistics
from typing import Any

from training.tables import table

from fastserve_core.processes import run_in_child, usable_cores
from tasks import ours
from tasks.setting import Bench, Scores

METRICS = {"hr10": "hr10", "ndcg10": "ndcg10"}
EPOCHS = 9
FILE = "amazon_beauty.txt"
OPTIONS = (
    "train.torch_ddp.batch_size=256",
    "train.torch_ddp.lr=1.5e-3",
    "train.torch_ddp.weight_decay=0",
    "train.torch_ddp.warmup_ratio=0.05",
)
"""Those of the experiment."""
BASELINES = ("popularity", "item_knn")


def compare(bench: Bench) -> dict[str, Any]:
    """Train ours and the reference with each seed; return the means over the seeds and the ratios."""
    found: dict[str, list[Scores]] = {name: [] for name in ("ours", "compressed", "reference", *BASELINES)}
    epochs = bench.epochs or EPOCHS
    options = [
        "task=next_item", "model=sasrec", f"data.train={bench.data / FILE}", *OPTIONS,
        f"train.torch_ddp.epochs={epochs}",
    ]  # fmt: skip
    has_reference = importlib.util.find_spec("rectools") is not None
    for seed in bench.seeds:
        record = ours.run(bench, "amazon_beauty", seed, options)
        trained, compressed = ours.read_scores(record, METRICS)
        found["ours"].append(trained)
        found["compressed"].append(compressed)
        for name in BASELINES:
            scores, _ = ours.read_scores(record, {metric: f"{name}_{metric}" for metric in METRICS})
            found[name].append(scores)
        if has_reference:
            request = {"data": ours.find_data(record), "epochs": epochs, "seed": seed}
            outcome = run_in_child("tasks.item_reference", request, usable_cores())
            found["reference"].append(Scores(outcome["scores"], outcome["rate"]))
    if not has_reference:
        print("the reference is missing: pip install 'rectools[torch]'")
    print(table(["amazon_beauty", *METRICS], [[name, *cells(scores)] for name, scores in found.items() if scores]))
    return {"amazon_beauty": summarize(found)}


def cells(scores: list[Scores]) -> list[str]:
    """Return the mean of each metric as text."""
    return [f"{statistics.mean(one.scores[name] for one in scores):.4f}" for name in METRICS]


def summarize(found: dict[str, list[Scores]]) -> dict[str, Any]:
    """Return the means of all models, the ratios of rates, and those of the compressed model."""
    means = {
        model: {name: round(statistics.mean(one.scores[name] for one in scores), 4) for name in METRICS}
        for model, scores in found.items()
        if scores
    }
    rate = statistics.median(one.rate for one in found["ours"])
    result = {**means.pop("ours"), **means, "rate": round(rate, 1)}
    if found["reference"]:
        result["rate_ratio"] = round(rate / statistics.median(one.rate for one in found["reference"]), 2)
    for name in ("speedup", "size_ratio"):
        result[name] = round(statistics.median(getattr(one, name) for one in found["compressed"]), 2)
    return result
