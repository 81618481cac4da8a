"""What training costs besides time: memory, checkpoints, and the parameters that the methods train."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

from fastserve_torch_ddp.options import DDPOptions
from training.runs import accuracy, in_turn, ours, rate, ratio
from training.tables import megabytes, plus_minus, table
from training.workload import Bench

LONG_ROWS, LONG_BATCH = 512, 64
NEVER = 10_000
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"method": "lora", "lr": 1e-3},
    "adalora": {"method": "adalora", "lr": 2e-3},
    "bottleneck": {"method": "bottleneck", "lr": 1e-3},
}


def memory(bench: Bench) -> dict[str, Any]:
    """The largest rank's peak resident set, on texts that fill the model's length."""
    work = bench.long_reviews(LONG_ROWS)
    ways: dict[str, dict[str, Any]] = {
        "one rank": {"nproc": 1},
        "activation_checkpointing=true": {"nproc": 1, "activation_checkpointing": True},
        "gradient_accumulation_steps=4": {"nproc": 1, "gradient_accumulation_steps": 4},
        "two ranks, sharding=none": {"nproc": 2, "sharding": "none"},
        "two ranks, sharding=zero": {"nproc": 2, "sharding": "zero"},
        "two ranks, sharding=fsdp": {"nproc": 2, "sharding": "fsdp"},
    }
    found = in_turn(
        "memory", {name: ours(bench, work, batch_size=LONG_BATCH, **more) for name, more in ways.items()}, [0]
    )
    peaks = {name: outcomes[0].peak_memory_bytes for name, outcomes in found.items()}
    print(f"{work.rows} rows of {work.task_options['max_length']} tokens, batches of {LONG_BATCH}, one epoch\n")
    lines = [[name, megabytes(peak), f"{rate(found[name]):.1f}"] for name, peak in peaks.items()]
    print(table(["training", "peak MB a rank", "samples/s"], lines))
    return {"peak_memory_bytes": peaks}


def checkpoints(bench: Bench) -> dict[str, Any]:
    """The time that training waits for what it keeps, and what checkpoints do to its rate."""
    work = bench.reviews()
    default = DDPOptions().checkpoint_every_s
    runs = {
        f"every {seconds:g} s": ours(bench, work, epochs=3, checkpoint_every_s=seconds) for seconds in (default, NEVER)
    }
    found = in_turn("checkpoints", runs, bench.seeds or (0,))
    with_them, never = found.values()
    shares = {
        name: statistics.median(one.held_up_s / one.seconds for one in outcomes) for name, outcomes in found.items()
    }
    print(f"{work.rows} rows, three epochs; the best weights are kept after each in both\n")
    lines = [[name, f"{100 * share:.2f}", f"{rate(found[name]):.1f}"] for name, share in shares.items()]
    print(table(["checkpoints", "% of the time held up", "samples/s"], lines))
    return {"checkpoint_share": round(max(shares.values()), 4), "checkpoint_rate_ratio": ratio(with_them, never)}


def adapters(bench: Bench) -> dict[str, Any]:
    """The methods: how many parameters they train, how well and how fast."""
    work = bench.reviews()
    runs = {name: ours(bench, work, **options) for name, options in METHODS.items()}
    seeds = bench.seeds if bench.seeds is not None else (0,)
    found = in_turn("adapters", runs, seeds)
    counts = {name: trained_parameters(bench, name, found[name][0].steps) for name in METHODS}
    print(f"{work.rows} rows, one epoch, seeds {', '.join(map(str, seeds))}\n")
    lines = [
        [name, f"{counts[name]:,}", plus_minus(accuracy(found[name])), f"{rate(found[name]):.1f}"] for name in METHODS
    ]
    print(table(["method", "trained parameters", "accuracy %", "samples/s"], lines))
    figures = {
        name: {
            "trained": counts[name],
            "accuracy": round(accuracy(found[name])[0], 2),
            "samples_per_s": rate(found[name]),
        }
        for name in METHODS
    }
    return {"adapters": figures}


def trained_parameters(bench: Bench, method: str, steps: int) -> int:
    """How many parameters a method leaves to be trained."""
    from fastserve_torch_ddp.peft_methods.adapters import attach_method, count_trainable  # it imports torch

    work = bench.reviews()
    model = work.task.build(work.model)
    return count_trainable(attach_method(model, asdict(DDPOptions(**METHODS[method])), steps).model)[0]
