"""The distance to the arithmetic limit: a step's operations a second against those of its products alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastserve_core.processes import run_in_child
from fastserve_torch_ddp.options import DDPOptions
from training.runs import fresh
from training.tables import table
from training.workload import Bench, Workload

ROWS, MANY = 2000, 10_000


def limit(bench: Bench) -> dict[str, Any]:
    """With one thread and with all; six operations for each token and weight of the encoder (Kaplan et al. 2020)."""
    work = bench.reviews(ROWS)
    found = [measure(bench, work, threads) for threads in dict.fromkeys((1, bench.cores))]
    what = f"products: the encoder's matrices in {found[0]['format']}, by as many tokens as a step has"
    print(f"{what}; padding counts as work\n")
    head = ["threads", "tokens a step", "ms a step", "step GFLOP/s", "products GFLOP/s", "share %"]
    print(table(head, [_line(one) for one in found]))
    print("\nparts of a step, % of its time\n")
    parts = list(dict.fromkeys(name for one in found for name in one["parts"]))
    rows = [[one["threads"], *(f"{100 * one['parts'].get(name, 0):.0f}" for name in parts)] for one in found]
    print(table(["threads", *parts], rows))
    return {"limit": found, "limit_share": round(found[-1]["step_rate"] / found[-1]["product_rate"], 3)}


def measure(bench: Bench, work: Workload, threads: int) -> dict[str, Any]:
    """One process with that many threads: its steps, and the products of their size."""
    request = {
        "model": work.model,
        "data": work.data.folder,
        "task": [work.task_name, work.task_options, list(work.data.labels)],
        "folder": fresh(bench.scratch / "limit"),
        "options": asdict(DDPOptions(epochs=MANY, eval_steps=MANY, checkpoint_every_s=MANY)),
        "threads": threads,
        "steps": bench.profiled_steps,
    }
    found: dict[str, Any] = run_in_child("training.limit_child", request, threads)
    return found


def _line(one: dict[str, Any]) -> list[str]:
    step, products = one["step_rate"] / 1e9, one["product_rate"] / 1e9
    milliseconds = 1000 * one["step_seconds"]
    return [
        str(one["threads"]),
        str(one["tokens_a_step"]),
        f"{milliseconds:.0f}",
        f"{step:.0f}",
        f"{products:.0f}",
        f"{100 * step / products:.0f}",
    ]
