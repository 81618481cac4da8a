"""Embeddings: fine-tuned on STS-B, and served, each against sentence-transformers."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from serving import load
from serving.rounds import in_rounds, loads_table, ratio
from serving.servers import Server, embedded, run_peer
from serving.setting import CONNECTIONS
from serving.setting import Bench as ServingBench
from training.tables import table

from fastserve_core.api import model_spec
from fastserve_core.artifacts import Store, default_home
from fastserve_core.data import load_dataset
from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import StageError
from fastserve_core.models import resolve_model
from fastserve_core.processes import run_in_child, usable_cores
from fastserve_core.tasks import load_task
from tasks import ours
from tasks.setting import Bench
from tasks.sources import files, write_lines

EPOCHS, BATCH, MAX_LENGTH = 3, 64, 128
OPTIONS = ("task=embedding", "model=minilm", f"task.max_length={MAX_LENGTH}", "train.torch_ddp.lr=1e-4",
           f"train.torch_ddp.batch_size={BATCH}")  # fmt: skip
METRICS = {"spearman": "spearman"}
PEER_NEEDS = ("sentence_transformers", "litserve")


def stsb(data: Path, scratch: Path) -> list[str]:
    """Write the pairs with the columns of the task."""

    def rows(name: str) -> list[dict[str, Any]]:
        with (data / f"stsb_en_{name}.csv").open(encoding="utf-8", newline="") as file:
            return [
                {"text": first, "positive": second, "score": float(score)} for first, second, score in csv.reader(file)
            ]

    return files(**{name: write_lines(scratch / f"embedding-{name}.jsonl", rows(name)) for name in ("train", "test")})


def stsb_embedding(bench: Bench) -> dict[str, Any]:
    """Train and compress a model with each seed, and the reference on the same rows."""
    found: dict[str, list[Any]] = {"ours": [], "compressed": [], "reference": [], "untouched": [], "ratio": []}
    for seed in bench.seeds:
        record, epochs = _train(bench, seed), bench.epochs or EPOCHS
        trained, compressed = ours.read_scores(record, METRICS)
        found["ours"].append(trained.scores["spearman"])
        found["compressed"].append(compressed.scores["spearman"])
        if outcome := _reference(bench, record, epochs, seed):
            found["reference"].append(outcome["spearman"])
            found["untouched"].append(outcome["untouched"])
            found["ratio"].append(trained.rate / outcome["rate"])
    means = {name: round(statistics.mean(values), 4) for name, values in found.items() if values}
    print(
        table(["stsb_embedding", "spearman"], [[name, f"{100 * means[name]:.1f}"] for name in means if name != "ratio"])
    )
    return {
        "stsb_embedding": {
            "spearman": means["ours"],
            **{name: value for name, value in means.items() if name != "ours"},
        }
    }


def _train(bench: Bench, seed: int) -> dict[str, Any]:
    options = [*OPTIONS, *stsb(bench.data, bench.scratch), f"train.torch_ddp.epochs={bench.epochs or EPOCHS}"]
    return ours.run(bench, "stsb_embedding", seed, options)


def _reference(bench: Bench, record: Mapping[str, Any], epochs: int, seed: int) -> dict[str, Any] | None:
    """Return the result of sentence-transformers with the faster of its number formats; ``None`` if it is missing."""
    if missing := missing_packages(PEER_NEEDS[:1]):
        print(f"sentence-transformers: missing here, it needs {', '.join(missing)}", flush=True)
        return None
    settings = {"batch_size": BATCH, "epochs": epochs, "max_length": MAX_LENGTH, "seed": seed}
    request = {"model": _checkpoint(record), "data": ours.find_data(record), "folder": bench.scratch / "reference"}
    outcomes = [
        run_in_child("tasks.sentence_reference", {**request, "settings": {**settings, "bf16": bf16}}, usable_cores())
        for bf16 in (False, True)
    ]
    return max(outcomes, key=lambda outcome: outcome["rate"])


def _checkpoint(record: Mapping[str, Any]) -> Path:
    """Return the folder of the checkpoint that the models are trained from."""
    dataset = load_dataset(ours.find_data(record))
    task = load_task("embedding", {})
    return resolve_model(model_spec({"model": "minilm"}), task, dataset, Store(default_home()), seed=0).folder


def embeddings_served(bench: Bench) -> dict[str, Any]:
    """Serve a model with 8 bits, and the model before under sentence-transformers and LitServe, one text a request."""
    if load.missing():
        raise StageError(load.ADVICE)
    record = _train(bench, bench.seeds[0])
    texts = [row["text"] for row in load_dataset(ours.find_data(record)).rows("test")]
    threads, artifacts = usable_cores(), [Path(stage["artifact"]) for stage in record["stages"]]
    servers = [embedded("ours, 8 bits", artifacts[-1], threads), embedded("ours", artifacts[0], threads)]
    if missing := missing_packages(PEER_NEEDS):
        print(f"sentence-transformers: missing here, it needs {', '.join(missing)}", flush=True)
    else:
        peer = partial(run_peer, "tasks.sentence_peer", artifacts[0], threads, ())
        servers.append(Server("sentence-transformers", peer, ours=False))
    setting = ServingBench(default_home(), bench.scratch, threads, rounds=1 if bench.rows else 2)
    found = in_rounds(setting, servers, texts, (CONNECTIONS,))
    print(loads_table(found, (CONNECTIONS,)))
    names = {"vs_peer": "ours, 8 bits", "trained_vs_peer": "ours"}
    return {"embeddings_served": {
        key: ratio(found, name, "sentence-transformers", CONNECTIONS) for key, name in names.items()
    }}  # fmt: skip


SECTIONS = {"stsb_embedding": stsb_embedding, "embeddings_served": embeddings_served}
