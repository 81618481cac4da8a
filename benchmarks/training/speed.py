"""Rate and accuracy against Hugging Face's ``Trainer``, and of the ranks' ways of sharing against one rank."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from training.runs import Outcome, Run, accuracy, hugging_face, in_turn, missing_packages, ours, rate, ratio
from training.tables import plus_minus, table
from training.workload import Bench, Workload

LR, BATCH, TOKENS = 5e-5, 32, 2048
PEERS, OURS = ("hf_default", "hf_best"), "ours"
SOME_ROWS = 2000


def speed(bench: Bench) -> dict[str, Any]:
    """One epoch over all reviews; the peer at its defaults (fp32) and at its best.

    Its best is grouped by length, with the fused AdamW, and in bf16 where the processor has it: emulated, bf16 is
    many times slower than fp32.
    """
    work, missing = bench.reviews(), missing_packages()
    if missing:
        print(f"Hugging Face Trainer is missing here: it needs {', '.join(missing)}\n")
    runs = ({} if missing else _peers(bench, work)) | _ours(bench, work)
    seeds = bench.seeds if bench.seeds is not None else tuple(range(bench.repeats))
    found = in_turn("speed", runs, seeds)
    names = [name for name in PEERS if name in found]
    print(f"{work.rows} rows, one epoch, batches of {BATCH}, seeds {', '.join(map(str, seeds))}; medians\n")
    head = ["training", "samples/s", "tokens/s", "accuracy %", *(f"times {name}" for name in names)]
    print(table(head, [_line(name, found, names) for name in found]))
    result: dict[str, Any] = {"missing": missing} | _details(found)
    result |= {f"vs_{name}": ratio(found[OURS], found[name]) for name in names}
    if names:
        best = max(accuracy(found[name])[0] for name in names)
        result["accuracy_gap"] = round(best - accuracy(found[OURS])[0], 2)
    return result


def _peers(bench: Bench, work: Workload) -> dict[str, Run]:
    import torch

    from fastserve_torch_ddp.ops.precision import has_bf16

    common = {"per_device_train_batch_size": BATCH, "num_train_epochs": 1, "learning_rate": LR}
    low = {"bf16": has_bf16(torch.device("cpu"))}
    best = low | {"train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused"}
    return {
        "hf_default": hugging_face(bench, work, **common),
        "hf_best": hugging_face(bench, work, **common, **best),
    }


def _ours(bench: Bench, work: Workload) -> dict[str, Run]:
    return {
        "ours": ours(bench, work, batch_size=BATCH, lr=LR),
        "ours_one_rank": ours(bench, work, batch_size=BATCH, lr=LR, nproc=1),
        "ours_by_tokens": ours(bench, work, batch_tokens=TOKENS, lr=2 * LR),
    }


def _line(name: str, found: Mapping[str, Sequence[Outcome]], others: Sequence[str]) -> list[str]:
    tokens = statistics.median(one.tokens_per_s for one in found[name])
    times = [f"{ratio(found[name], found[other]):.2f}" for other in others]
    return [name, f"{rate(found[name]):.1f}", f"{tokens:,.0f}", plus_minus(accuracy(found[name])), *times]


def _details(found: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    return {
        "samples_per_s": {name: [one.samples_per_s for one in outcomes] for name, outcomes in found.items()},
        "accuracy": {name: [round(one.accuracy, 4) for one in outcomes] for name, outcomes in found.items()},
    }


def ranks(bench: Bench) -> dict[str, Any]:
    """Two ranks of half the cores each, by every way of sharing, against one rank with all cores."""
    work = bench.reviews(SOME_ROWS)
    ways: dict[str, dict[str, Any]] = {
        "one rank": {"nproc": 1},
        "two ranks (shards)": {"nproc": 2},
        "two ranks, DDP": {"nproc": 2, "sharding": "none"},
        "two ranks, DDP with PowerSGD": {"nproc": 2, "sharding": "none", "gradient_compression": "powersgd"},
        "two ranks, averaged every 4 steps": {"nproc": 2, "local_sgd_steps": 4},
    }
    runs = {name: ours(bench, work, batch_size=BATCH, lr=LR, **options) for name, options in ways.items()}
    found = in_turn("ranks", runs, range(bench.repeats))
    one, shards, *_ = ways
    ratios = {name: ratio(outcomes, found[one]) for name, outcomes in found.items()}
    print(f"{work.rows} rows, one epoch, {bench.cores} threads in all, rounds: {bench.repeats}; medians\n")
    lines = [
        [name, f"{rate(found[name]):.1f}", f"{ratios[name]:.2f}", plus_minus(accuracy(found[name]))] for name in ways
    ]
    print(table(["ranks", "samples/s", "times one rank", "accuracy %"], lines))
    return {"two_ranks_vs_one": ratios[shards], "ranks": ratios}
