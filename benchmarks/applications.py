"""Each task against what the example scripts of transformers do, on the same rows and for the same epochs.

    python benchmarks/applications.py [TASK …] [--data FOLDER] [--quick] [--seeds 0,1,2] [--out FILE]

``--data`` (or FASTSERVE_BENCH_DATA) is the folder with the labelled sets; ``benchmarks/tasks/sources.py`` names the
files. The last line is ``RESULT {json}``: for each task the means over the seeds of each metric, ``reference`` and
``compressed`` with the same metrics, ``baseline``, ``setfit`` (few shots), ``rate_ratio`` (training rows a second,
ours to the reference's), ``speedup`` and ``size_ratio`` of the compressed model, and for a task that writes texts
``generation_ratio`` (tokens a second at batch 8, ours to the reference's). ``scoring`` compares the prediction for a
file with the engine and with the pipeline of transformers; ``long_text`` times one long Chinese text.
``stsb_embedding`` and ``embeddings_served`` have sentence-transformers beside them: ``ratio`` of the training rates,
and ``vs_peer`` of the requests a second. ``index`` has ``recall`` (of exact search's 10 hits), ``size_ratio`` (bytes
of a vector to those of its code; ``memory_ratio`` with the tables) and ``vs_exact`` (queries a second to numpy's).
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import sections
from tasks import items, ours
from tasks.baselines import score_baseline
from tasks.catalog import APPLICATIONS, Application
from tasks.embeddings import SECTIONS as EMBEDDINGS
from tasks.long_text import time_long_text
from tasks.scorers import score_classes
from tasks.scoring import compare_scoring
from tasks.search_index import SECTIONS as SEARCH
from tasks.setfit_peer import score_setfit
from tasks.setting import QUICK_EPOCHS, QUICK_ROWS, Bench, Scores
from training.tables import table

from fastserve_core.api import model_spec
from fastserve_core.artifacts import Store, default_home
from fastserve_core.data import load_dataset
from fastserve_core.models import resolve_model
from fastserve_core.processes import run_in_child, usable_cores
from fastserve_core.tasks import load_task

FOLDER = "FASTSERVE_BENCH_DATA"
OTHERS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "scoring": compare_scoring,
    "long_text": time_long_text,
    **EMBEDDINGS,
    **SEARCH,
    "amazon_beauty": items.compare,
}
"""The tasks that bring their own comparison."""
NAMES = (*APPLICATIONS, *OTHERS)
MODELS = ("baseline", "reference", "setfit", "ours", "compressed", "chain")
"""The rows of a table, of which some tasks have fewer."""


def compare(bench: Bench, name: str, application: Application) -> dict[str, Any]:
    """Train ours and the reference with each seed; return the means."""
    found: dict[str, list[Scores]] = defaultdict(list)
    model, epochs = application.make_model(bench), bench.epochs or application.epochs
    own = bench.epochs or application.own_epochs or epochs
    for seed in bench.seeds:
        options = [*application.overrides(bench, seed), f"model={model}", f"train.torch_ddp.epochs={own}"]
        record = ours.run(bench, name, seed, options)
        trained, compressed = ours.read_scores(record, application.metrics)
        if application.head == "texts":
            trained = replace(trained, generation=ours.measure_generation(record))
        found["ours"].append(trained)
        found["compressed"].append(compressed)
        if application.chain:
            chained = ours.run(bench, f"{name}-chain", seed, [*options, *application.chain], ours.CHAIN)
            found["chain"].append(ours.read_scores(chained, application.metrics)[1])
        found["reference"].append(train_reference(bench, application, model, record, epochs, seed))
        found["baseline"].append(Scores(score_baseline(application.head, ours.find_data(record))))
        if application.has_setfit:
            found["setfit"].append(train_setfit(application, model, record, seed))
    result = summarize(found)
    print_table(name, application.metrics, found)
    return {name: result}


def train_reference(
    bench: Bench, application: Application, model: str, record: Mapping[str, Any], epochs: int, seed: int
) -> Scores:
    """Train the reference on the rows of a run, from the checkpoint that it started from."""
    data, labels = ours.find_data(record), record["data"]["labels"]
    request = {
        "model": find_checkpoint(application, model, record),
        "data": data,
        "head": application.head,
        "settings": {"labels": labels, "max_length": application.max_length, "epochs": epochs, "seed": seed},
        "folder": bench.scratch / "reference",
    }
    outcome = run_in_child("tasks.reference", request, usable_cores())
    return Scores(outcome["scores"], outcome["rate"], generation=outcome["generation"])


def find_checkpoint(application: Application, model: str, record: Mapping[str, Any]) -> Path:
    """Return the folder of the checkpoint that a run started from."""
    task = load_task(application.task, {}, record["data"]["labels"])
    data = load_dataset(ours.find_data(record))
    return resolve_model(model_spec({"model": model}), task, data, Store(default_home()), seed=0).folder


def train_setfit(application: Application, model: str, record: Mapping[str, Any], seed: int) -> Scores:
    """Train SetFit's own package on the rows of a run; no scores if it is not installed."""
    data = load_dataset(ours.find_data(record))
    train, test = list(data.rows("train")), list(data.rows("test"))
    answers = score_setfit(find_checkpoint(application, model, record), train, test, seed)
    return Scores(score_classes(answers, [row["label"] for row in test]) if answers else {})


def summarize(found: Mapping[str, Sequence[Scores]]) -> dict[str, Any]:
    """Return the means over the seeds of each model's scores, and the ratios."""
    pairs = list(zip(found["ours"], found["reference"], strict=True))
    rates = [mine.generation / other.generation for mine, other in pairs if other.generation]
    return {
        **mean_scores(found["ours"]),
        **{
            name: mean_scores(found[name])
            for name in ("reference", "compressed", "baseline", "setfit")
            if name in found
        },
        "rate_ratio": round(statistics.median(mine.rate / other.rate for mine, other in pairs), 2),
        **({"generation_ratio": round(statistics.median(rates), 2)} if rates else {}),
        **mean_costs(found["compressed"]),
        **({"chain": mean_scores(found["chain"]) | mean_costs(found["chain"])} if "chain" in found else {}),
    }


def mean_costs(models: Sequence[Scores]) -> dict[str, float]:
    """Return the medians of the ratios of compressed models to the trained ones."""
    return {
        "speedup": round(statistics.median(one.speedup for one in models), 2),
        "size_ratio": round(statistics.median(one.size_ratio for one in models), 2),
    }


def mean_scores(models: Sequence[Scores]) -> dict[str, float]:
    """Return the mean of each score."""
    return {name: round(statistics.mean(one.scores[name] for one in models), 4) for name in models[0].scores}


def print_table(name: str, metrics: Mapping[str, str], found: Mapping[str, Sequence[Scores]]) -> None:
    """Print the scores of all models with their spread over the seeds."""
    rows = []
    for model in (name for name in MODELS if name in found):
        cells = []
        for metric in metrics:
            values = [100 * one.scores[metric] for one in found[model] if metric in one.scores]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "-")
        rows.append([model, *cells])
    print(table([name, *metrics], rows))


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--data", type=Path, default=os.environ.get(FOLDER), help=f"the labelled sets (or {FOLDER})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} rows, one epoch, one seed")
    parser.add_argument("--seeds", type=sections.numbers, help="0,1,2 by default")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    chosen = parser.parse_args(given)
    if strangers := [name for name in chosen.tasks if name not in NAMES]:
        parser.error(f"no task is called {strangers[0]}: choose of {', '.join(NAMES)}")
    if chosen.data is None or not Path(chosen.data).is_dir():
        parser.error(f"--data (or {FOLDER}) must be the folder with the labelled sets")
    return chosen


def main() -> None:
    chosen = parse()
    seeds = chosen.seeds or ((0,) if chosen.quick else Bench.seeds)
    with sections.scratch() as folder:
        bounds = {"rows": QUICK_ROWS, "epochs": QUICK_EPOCHS} if chosen.quick else {}
        bench = Bench(Path(chosen.data).resolve(), folder, seeds, **bounds)
        parts: dict[str, Callable[[Bench], dict[str, Any]]] = {
            **{name: partial(compare, name=name, application=one) for name, one in APPLICATIONS.items()},
            **OTHERS,
        }
        result = sections.run(parts, chosen.tasks or tuple(parts), bench, chosen.out)
    sections.finish(result)


if __name__ == "__main__":
    main()
