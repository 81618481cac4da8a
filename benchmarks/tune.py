"""The tuner against Optuna's searches and random ones: the best validation loss for the same training steps.

    python benchmarks/tune.py [--quick] [--only linear,minilm] [--repeats N] [--curves F] [--out F]

``linear`` is a cheap real objective, TF-IDF and a linear model, and ``minilm`` the fine-tuning of MiniLM, each training
of which is made once and kept in ``--curves``; both are of the movie reviews. Every search begins with the options as
they are, which for ``minilm`` are drawn by the seed. The last line is ``RESULT {json}``: ``vs_best_optuna`` (the mean
loss of the best of Optuna's searches minus ours) and ``vs_random``, of ``minilm`` where it ran, else of ``linear``, and
both under each name; ``overhead`` is the part of a trial's time that the tuner itself takes, where ``minilm`` ran.
"""

from __future__ import annotations

import os
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sections
from training.tables import table
from tuning.linear import linear
from tuning.minilm import STEPS, minilm, read_curves
from tuning.ours import nevergrad_search, own_seconds
from tuning.setting import Bench, Found, Objective

from fastserve_core.artifacts import Store, default_home
from fastserve_nevergrad import NevergradOptions

OURS = "ours"
SEEDS_FROM = 100
"""The optimizers were chosen with seeds from 0 on; these are others."""
NINTH = 9


def variants(objective: Objective) -> dict[str, dict[str, Any]]:
    """The tuner's options by the name of a search: its defaults, and what else could be."""
    return {
        OURS: {},
        "ours, not halved": {"reduction_factor": None},
        "ours, from a ninth on": {"min_resource": objective.steps // NINTH},
        **{f"ours, {name}": {"optimizer": name} for name in ("TwoPointsDE", "OnePlusOne", "PSO", "NGOpt")},
        "ours, drawn at random": {"optimizer": "RandomSearch"},
    }


def compare(bench: Bench, objective: Objective) -> dict[str, Any]:
    """Every search with every seed, in turn; means and standard errors of the best losses."""
    from tuning.peers import PEERS, RANDOM

    searches = {**PEERS, **{name: nevergrad_search(**options) for name, options in variants(objective).items()}}
    found: dict[str, list[Found]] = {name: [] for name in searches}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(SEEDS_FROM, SEEDS_FROM + bench.repeats):
            for name, search in searches.items():
                found[name].append(search(objective, bench.budget * objective.steps, seed))
    means = {name: statistics.fmean(one.loss for one in each) for name, each in found.items()}
    peers = {name: means[name] for name in PEERS if name != RANDOM}
    best = min(peers, key=lambda name: peers[name])
    print(f"{objective.name}: {bench.budget} whole trials' steps, {bench.repeats} searches each\n")
    print(table(["search", "mean best loss", "trials", "minus ours"], [_row(name, found) for name in found]))
    return {
        "vs_best_optuna": round(means[best] - means[OURS], 5),
        "vs_random": round(means[RANDOM] - means[OURS], 5),
        "best_optuna": best,
        "losses": {name: round(mean, 5) for name, mean in means.items()},
        "repeats": bench.repeats,
    }


def _row(name: str, found: Mapping[str, Sequence[Found]]) -> list[str]:
    losses, ours = [one.loss for one in found[name]], [one.loss for one in found[OURS]]
    apart = [theirs - own for theirs, own in zip(losses, ours, strict=True)]
    trials = statistics.fmean(one.trials for one in found[name])
    return [name, _mean(losses), f"{trials:.1f}", _mean(apart)]


def _mean(values: Sequence[float]) -> str:
    """With its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} ± {error:.4f}"


def on_linear(bench: Bench) -> dict[str, Any]:
    return {"linear": compare(bench, linear(bench.store))}


def on_minilm(bench: Bench) -> dict[str, Any]:
    """Also what the tuner takes by itself, beside the shortest trial that it makes."""
    curves = read_curves(bench)
    result = compare(bench, minilm(curves))
    least = NevergradOptions.min_resource
    shortest = statistics.fmean(one["seconds"] for one in curves.values()) * least / STEPS
    own = own_seconds(minilm(curves))
    print(f"\nthe tuner itself takes {1000 * own:.1f} ms a trial, {own / shortest:.2%} of one of {least} steps")
    return {"minilm": result, "overhead": round(own / shortest, 5)}


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {"linear": on_linear, "minilm": on_minilm}


def main() -> None:
    parser = sections.parser(__doc__, SECTIONS, "only linear, 3 searches each")
    parser.add_argument("--curves", type=Path, help="a JSON file that keeps the trainings of minilm")
    parser.add_argument("--repeats", type=int, default=40, help="searches of each kind")
    chosen = parser.parse_args()
    if find_spec("optuna") is None:
        parser.error("optuna is not installed: pip install 'fastserve-core[bench]'")
    with sections.scratch() as folder:
        store = Store(default_home() if os.environ.get("FASTSERVE_HOME") else folder / "home")
        bench = Bench(store, folder, 3 if chosen.quick else chosen.repeats, curves=chosen.curves)
        names = chosen.only or (("linear",) if chosen.quick else tuple(SECTIONS))
        result = sections.run(SECTIONS, names, bench, chosen.out)
    main_one = result.get("minilm") or result.get("linear") or {}
    result |= {name: main_one.get(name) for name in ("vs_best_optuna", "vs_random")}
    sections.finish(result)


if __name__ == "__main__":
    main()
