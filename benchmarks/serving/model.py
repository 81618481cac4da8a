"""The embedded server with a model: against its own engine without a server, and against others' servers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.tables import table

from fastserve_core.processes import run_in_child
from serving.beside import beside
from serving.classifiers import EAGER, OURS
from serving.rounds import Loads, in_rounds, loads_table, plain, ratio, tail
from serving.servers import embedded, peers
from serving.setting import CONNECTIONS, Bench, models

FP32, INT8 = "ours, fp32 weights", "ours, INT8"
NAIVE, LITSERVE, LITSERVE_OURS = "FastAPI + pipeline, torch fp32", "LitServe, torch fp32", "LitServe, our engine"
AT_ONCE = (CONNECTIONS, 1)

Bare = Mapping[str, Sequence[Mapping[str, float]]]


def model(bench: Bench) -> dict[str, Any]:
    """Everything in turn, in every round."""
    made = models(bench)
    artifacts = {FP32: made.original, INT8: made.quantized}
    servers = [
        *(embedded(name, artifact, bench.threads) for name, artifact in artifacts.items()),
        *peers("fastapi", NAIVE, made.original, bench.threads),
        *peers("litserve", LITSERVE, made.original, bench.threads, EAGER),
        *peers("litserve", LITSERVE_OURS, made.original, bench.threads, OURS),
    ]
    bare: dict[str, list[dict[str, float]]] = {name: [] for name in artifacts}

    def without_server() -> None:
        for name, artifact in artifacts.items():
            bare[name].append(_bare(bench, artifact, made.texts))

    found = in_rounds(bench, servers, made.texts, AT_ONCE, without_server)
    print(loads_table(found, AT_ONCE) + "\n")
    print(_bare_table(bare))
    alone = [beside(bench, servers[0], made.texts) for _ in range(bench.rounds)]
    print("\nWeights in fp32 run on OpenVINO, which computes in bf16 where the processor has units for it.")
    idle = {"idle_beside_pass_ms": round(statistics.median(alone), 3)}
    return figures(found, bare) | idle | {"loads": plain(found), "bare": bare}


def _bare(bench: Bench, artifact: Path, texts: Sequence[str]) -> dict[str, float]:
    request = {"artifact": artifact, "texts": texts, "threads": bench.threads, "seconds": bench.seconds}
    found: dict[str, float] = run_in_child("serving.bare", request, bench.threads)
    return found


def figures(found: Mapping[str, Sequence[Loads]], bare: Bare) -> dict[str, float | None]:
    """The keys of the last line: medians over rounds of ratios within a round."""
    return {
        "vs_ceiling": _of_ceiling(found, bare, FP32),
        "vs_ceiling_int8": _of_ceiling(found, bare, INT8),
        "vs_naive": ratio(found, FP32, NAIVE, CONNECTIONS),
        "vs_litserve": ratio(found, FP32, LITSERVE, CONNECTIONS),
        "vs_litserve_same_engine": ratio(found, FP32, LITSERVE_OURS, CONNECTIONS),
        "p99_over_p50": tail(found, FP32),
        "idle_overhead_ms": _idle(found, bare, "ms"),
        "idle_overhead_all_threads_ms": _idle(found, bare, "ms_all_threads"),
    }


def _of_ceiling(found: Mapping[str, Sequence[Loads]], bare: Bare, name: str) -> float | None:
    if name not in found:
        return None
    pairs = zip(found[name], bare[name], strict=True)
    return round(statistics.median(one[CONNECTIONS].per_s / two["per_s"] for one, two in pairs), 3)


def _idle(found: Mapping[str, Sequence[Loads]], bare: Bare, key: str) -> float | None:
    """Milliseconds that a request takes longer than its text takes the engine, where nothing else is asked."""
    if FP32 not in found:
        return None
    pairs = zip(found[FP32], bare[FP32], strict=True)
    return round(statistics.median(one[1].p50_ms - two[key] for one, two in pairs), 3)


def _bare_table(bare: Bare) -> str:
    keys = ("per_s", "ms", "ms_all_threads")
    rows = [
        [name, *(f"{statistics.median(one[key] for one in rounds):,.2f}" for key in keys)]
        for name, rounds in bare.items()
    ]
    return table(["without a server", "texts/s, sorted batches", "ms, one text, 1 thread", "all threads"], rows)
